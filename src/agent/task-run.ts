import { appendFileSync, chownSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import type { Readable } from 'node:stream';
import { StringDecoder } from 'node:string_decoder';
import { cgroupOomKills, createCgroup, removeCgroup } from '#process/cgroup.ts';
import { killTree } from '#process/control.ts';
import { isolation } from '#process/isolation.ts';
import { removePidFile, writePidFile } from '#process/pid-file.ts';
import { spawnDetached } from '#process/spawn.ts';
import { programTitle } from '#process/title.ts';
import { pause, type Clock } from '#clock/clock.ts';
import type { ReleaseSpec } from '#wire/region.ts';
import { join } from 'node:path';
import { makePlaces, viewOf, type Layout } from './layout.ts';
import { MAX_LOG_LINE_BYTES, STAMP } from './runtimes/fetch/output.ts';
import type { Scrub } from '#log/scrub.ts';
import type { TaskPlace } from './task-place.ts';

/** One command of a task, isolated as an instance of the app is; what it prints goes to a log of its own. */

export interface TaskRun {
	ended: Promise<TaskEnding>;
	/** Ends all of it. `why` is told as the reason. */
	stop(why: string): void;
}

export interface TaskEnding {
	passed: boolean;
	/** For a person: how it ended, with its last lines. */
	detail: string;
}

export interface TaskCommand {
	/** Also the name of its log. */
	name: string;
	region: string;
	spec: ReleaseSpec;
	command: string;
	env: Record<string, string>;
	place: TaskPlace;
	scrub: Scrub;
	timeoutMs: number;
}

export interface TaskSurroundings {
	layout: Layout;
	data: string;
	cgroups: string;
	uid: number | null;
	clock: Clock;
}

const MAX_PROCESSES = 256;
const TMP_MIB = 256;
/** What one task may write to its log; the rest is counted. */
const MAX_LOG_BYTES = 4 * 1024 * 1024;
const CUT = `the rest is left out: a task may print ${MAX_LOG_BYTES / 1024 / 1024} MiB`;
const KEPT_LINES = 30;
const KEPT_CHARACTERS = 4_000;
/** Its pipes are read no longer than this after its end: a child that it left behind may hold them. */
const PIPES_GRACE_MS = 5_000;
const CGROUP_REMOVALS = 50;
const CGROUP_REMOVAL_DELAY_MS = 20;

export async function runTask(around: TaskSurroundings, of: TaskCommand): Promise<TaskRun> {
	const { layout, data, uid, clock } = around;
	const { spec } = of;
	const view = viewOf(layout, spec, spec.vendor);
	makePlaces(layout, spec, view, (directory) => uid !== null && chownSync(directory, uid, uid));
	const limits = { memoryMiB: spec.memoryMiB, pids: MAX_PROCESSES, cpuMillis: spec.cpuMillis };
	const cgroup = isolation().cgroup ? createCgroup(`${around.cgroups}/${of.name}`, limits) : undefined;
	const { identity, child } = await spawnDetached({
		argv0: programTitle('instance'),
		command: '/bin/sh',
		args: ['-c', of.command],
		env: of.env,
		cwd: of.place.root,
		piped: true,
		...(uid === null ? {} : { uid }),
		binds: view.binds,
		privateTmp: { sizeMiB: TMP_MIB },
		...(cgroup ? { cgroup } : {}),
	});
	const pidFile = `instance-${of.name}`;
	writePidFile(data, pidFile, identity, cgroup);
	const log = new TaskLog(around, of);
	const closed = Promise.all([log.read(child.stdout!, 'o'), log.read(child.stderr!, 'e')]);
	let why: string | null = null;
	const stop = (reason: string) => {
		why ??= reason;
		killTree(identity, cgroup);
	};
	const limit = clock.after(of.timeoutMs, () => stop(`did not end within ${of.timeoutMs / 1000} s`));
	const exited = new Promise<string>((resolve) => {
		child.once('exit', (code, signal) => resolve(signal ?? String(code)));
		if (child.exitCode !== null || child.signalCode !== null) resolve(child.signalCode ?? String(child.exitCode));
	});
	const ended = exited.then(async (code): Promise<TaskEnding> => {
		limit.cancel();
		const memory = cgroup !== undefined && cgroupOomKills(cgroup) > 0;
		killTree(identity, cgroup);
		await Promise.race([closed, pause(PIPES_GRACE_MS, clock)]);
		for (const stream of [child.stdout, child.stderr]) stream?.destroy();
		removePidFile(data, pidFile);
		for (let tries = 0; cgroup && !removeCgroup(cgroup) && tries < CGROUP_REMOVALS; tries++) await pause(CGROUP_REMOVAL_DELAY_MS, clock);
		const passed = code === '0' && why === null && !memory;
		const how = memory ? `used more memory than its limit of ${spec.memoryMiB} MiB and was killed` : (why ?? `ended with ${code}`);
		return { passed, detail: passed ? '' : `${of.command} ${how}${log.tail()}` };
	});
	return { ended, stop };
}

/** Lines as `jibe logs` reads them, without secrets, and the last of them for who waits. */
class TaskLog {
	readonly #file: string;
	readonly #scrub: Scrub;
	readonly #clock: Clock;
	#last: string[] = [];
	#left = MAX_LOG_BYTES;

	constructor({ layout, clock }: TaskSurroundings, { name, region, spec: { app, environment, release }, scrub }: TaskCommand) {
		const directory = join(layout.home, 'logs');
		mkdirSync(directory, { recursive: true, mode: 0o700 });
		this.#file = join(directory, `${name}.log`);
		this.#scrub = scrub;
		this.#clock = clock;
		rmSync(`${this.#file}.1`, { force: true });
		// First the log: an owner without one counts as long gone, and would be tidied up.
		writeFileSync(this.#file, '', { mode: 0o600 });
		writeFileSync(join(directory, `${name}.json`), JSON.stringify({ region, app, environment, release }));
	}

	read(stream: Readable, letter: 'o' | 'e'): Promise<void> {
		const decoder = new StringDecoder('utf8');
		let rest = '';
		const take = (text: string, end: boolean) => {
			const lines = (rest + text).split('\n');
			rest = lines.pop()!;
			if (rest !== '' && (end || rest.length > MAX_LOG_LINE_BYTES)) {
				lines.push(rest);
				rest = '';
			}
			this.#write(lines, letter);
		};
		return new Promise((resolve) => {
			stream.on('data', (bytes: Buffer) => take(decoder.write(bytes), false));
			stream.on('error', () => resolve());
			stream.once('close', () => {
				take(decoder.end(), true);
				resolve();
			});
		});
	}

	tail(): string {
		const text = this.#last.map(this.#scrub).join('\n').slice(-KEPT_CHARACTERS);
		return text === '' ? '' : `; its last output:\n${text}`;
	}

	#write(lines: readonly string[], letter: 'o' | 'e'): void {
		this.#last = [...this.#last, ...lines.slice(-KEPT_LINES)].slice(-KEPT_LINES);
		let text = '';
		for (const line of lines) {
			if (this.#left <= 0) break;
			this.#left -= line.length;
			const shown = this.#left > 0 ? this.#scrub(line.replace(/\r$/, '')) : CUT;
			text += `${STAMP}${this.#clock.now()} ${letter} ${shown}\n`;
		}
		if (text === '') return;
		try {
			appendFileSync(this.#file, text, { mode: 0o600 });
		} catch {
			this.#left = 0; // a full disk: who waits gets the last lines all the same
		}
	}
}
