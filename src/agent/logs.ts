import { mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Clock, Timer } from '#clock/clock.ts';
import type { DownMessage, LogLines } from '#wire/region.ts';
import type { Log } from '#log/log.ts';
import { readLines, scrubFile, trimLog, type LogLine } from './log-file.ts';
import type { Scrub } from '#log/scrub.ts';

/** Output of instances, those that have ended too: asked for by region and app, once or as it comes. */
export interface Logs {
	/** From now on the output of this process is that of this instance. */
	bind(id: string, owner: LogOwner): void;
	wanted(ask: Extract<DownMessage, { type: 'logsWanted' }>): void;
	done(id: string): void;
	/** Rewrites what a release has written: its secrets will not be known any more. */
	clean(release: Omit<LogOwner, 'region'>, scrub: Scrub): void;
	/** Keeps files small and forgets old ones. */
	tidy(living: ReadonlySet<string>): void;
	close(): void;
}

export interface LogOwner {
	region: string;
	app: string;
	environment: string;
	release: number;
}

const KEEP_DAYS = 30;
/** Files of ended instances; the oldest go first. */
const MAX_ENDED_FILES = 500;
const MAX_FOLLOWERS = 32;
const FOLLOW_PERIOD_MS = 250;
const LINES_PER_MESSAGE = 200;
const MAX_MESSAGE_CHARACTERS = 1024 * 1024;
const DAY_MS = 86_400_000;

type Line = LogLines['lines'][number];

export interface LogsOptions {
	directory: string;
	clock: Clock;
	log: Log;
	/** Takes secrets out of what was written past the stamps, where nobody else does. */
	scrub: (of: LogOwner) => Scrub;
	send: (message: LogLines) => boolean;
}

export function createLogs(of: LogsOptions): Logs {
	const { directory, clock, log } = of;
	mkdirSync(directory, { recursive: true, mode: 0o700 });
	const followers = new Map<string, Timer>();

	function filesOf(ask: { region: string; app: string; environment: string }): { id: string; owner: LogOwner }[] {
		return owners(directory).filter(
			({ owner }) => owner.region === ask.region && owner.app === ask.app && owner.environment === ask.environment,
		);
	}

	function read(id: string, owner: LogOwner, offset: number): { lines: Line[]; next: number } {
		const { lines, next } = readLines(join(directory, `${id}.log`), offset, clock.now());
		return { lines: shown(lines, id, owner), next };
	}

	function shown(lines: LogLine[], id: string, owner: LogOwner): Line[] {
		const scrub = of.scrub(owner);
		return lines.map((line) => withOwner({ ...line, text: scrub(line.text) }, id, owner));
	}

	function say(id: string, lines: Line[], end: boolean): boolean {
		let heard = true;
		let part: Line[] = [];
		let size = 0;
		for (const line of lines) {
			part.push(line);
			size += line.text.length;
			if (part.length < LINES_PER_MESSAGE && size < MAX_MESSAGE_CHARACTERS) continue;
			heard = of.send({ type: 'logLines', id, lines: part, end: false }) && heard;
			part = [];
			size = 0;
		}
		return part.length > 0 || end ? of.send({ type: 'logLines', id, lines: part, end }) && heard : heard;
	}

	function done(id: string): void {
		followers.get(id)?.cancel();
		followers.delete(id);
	}

	return {
		bind(id, { region, app, environment, release }) {
			try {
				writeFileSync(join(directory, `${id}.json`), JSON.stringify({ region, app, environment, release }));
			} catch (error) {
				// A full disk: nobody will find its output, but the app runs.
				log.warn('logs.not_bound', { id, app, region, error });
			}
		},
		wanted(ask) {
			const offsets = new Map<string, number>();
			let lines: Line[] = [];
			for (const { id, owner } of filesOf(ask)) {
				const older = shown(readLines(join(directory, `${id}.log.1`), 0, 0).lines, id, owner);
				const now = read(id, owner, 0);
				offsets.set(id, now.next);
				// Not spread: 100,000 short lines are more arguments than a stack holds.
				lines = lines.concat(older, now.lines);
			}
			lines = lines.filter(({ at }) => at >= ask.since).sort((a, b) => a.at - b.at);
			const follow = ask.follow && followers.size < MAX_FOLLOWERS;
			say(ask.id, lines.slice(-ask.maxLines), !follow);
			if (!follow) return;
			followers.set(ask.id, clock.every(FOLLOW_PERIOD_MS, () => {
				let fresh: Line[] = [];
				for (const { id, owner } of filesOf(ask)) {
					const part = read(id, owner, offsets.get(id) ?? 0);
					offsets.set(id, part.next);
					fresh = fresh.concat(part.lines);
				}
				if (fresh.length > 0 && !say(ask.id, fresh, false)) done(ask.id);
			})); // prettier-ignore
		},
		done,
		clean({ app, environment, release }, scrub) {
			for (const { id, owner } of owners(directory)) {
				if (owner.app !== app || owner.environment !== environment || owner.release !== release) continue;
				for (const name of [`${id}.log`, `${id}.log.1`]) scrubFile(join(directory, name), scrub);
			}
		},
		tidy(living) {
			const ended = owners(directory).filter(({ id }) => !living.has(id)).map(({ id }) => ({ id, at: changedAt(join(directory, `${id}.log`)) })); // prettier-ignore
			ended.sort((a, b) => b.at - a.at);
			for (const [rank, { id, at }] of ended.entries()) {
				if (rank < MAX_ENDED_FILES && at > clock.now() - KEEP_DAYS * DAY_MS) continue;
				for (const name of [`${id}.json`, `${id}.log`, `${id}.log.1`]) rmSync(join(directory, name), { force: true });
			}
			for (const id of living) trimLog(join(directory, `${id}.log`));
		},
		close() {
			for (const id of followers.keys()) done(id);
		},
	};
}

function withOwner({ at, stream, text }: LogLine, id: string, { region, release }: LogOwner): Line {
	return { at, region, instance: id, release, stream, text };
}

function owners(directory: string): { id: string; owner: LogOwner }[] {
	return readdirSync(directory).filter((name) => name.endsWith('.json')).map((name) => ({
		id: name.slice(0, -'.json'.length),
		owner: JSON.parse(readFileSync(join(directory, name), 'utf8')) as LogOwner,
	})); // prettier-ignore
}

function changedAt(file: string): number {
	return statSync(file, { throwIfNoEntry: false })?.mtimeMs ?? 0;
}
