import { isoTime, pause, systemClock } from '#clock/clock.ts';
import type { BuildAnswer, BuildLogLine } from '#wire/builds.ts';
import { logWords } from './build-words.ts';
import { durationMs } from './duration.ts';
import { EXIT, usage, type Exit } from './failure.ts';
import { deploymentId, needApp } from './project.ts';
import { ApiFailure, ask, askLines, findServer, Interrupted, type Server } from './server.ts';
import type { Invocation, Verb } from './verbs.ts';

interface Line {
	at: number;
	region: string;
	instance: string;
	release: number;
	stream: 'out' | 'err';
	text: string;
}

const DEFAULT_SINCE = '1h';
const DEFAULT_LINES = '1000';
const AGAIN_MS = 500;

export const verb: Verb = {
	syntax: {
		options: { follow: 'flag', since: 'value', lines: 'value', region: 'value', build: 'value', step: 'value' },
		positionals: ['APP'],
		optional: 0,
	},
	async run(invocation: Invocation): Promise<Exit> {
		const { args, out, environment, data } = invocation;
		const build = args.value('build');
		if (build !== null) return buildLog(invocation, deploymentId(build));
		const app = await needApp(args.positionals[0]);
		const server = findServer(data);
		const follow = args.flag('follow');
		const lines = args.value('lines') ?? DEFAULT_LINES;
		if (!/^[1-9]\d{0,5}$/.test(lines)) throw usage('--lines takes a number');
		await refuseUnknown(server, app, environment);
		let since = systemClock.now() - sinceMs(args.value('since') ?? DEFAULT_SINCE);
		let shown = 0;
		const show = (value: unknown): boolean => {
			const line = value as Line;
			since = Math.max(since, line.at + 1);
			shown++;
			out.line(line, words(line));
			return false;
		};
		for (;;) {
			const region = args.value('region');
			const query = new URLSearchParams({
				environment,
				since: String(since),
				lines,
				follow: follow ? '1' : '0',
				...(region === null ? {} : { region }),
			});
			await askLines(server, { path: `/api/v1/apps/${encodeURIComponent(app)}/logs?${query.toString()}` }, show).catch((error: unknown) => {
				// An answer that ends is how the lines end; with -f a control that restarts is asked again.
				if (error instanceof Interrupted) return;
				throw error;
			});
			if (!follow) break;
			await pause(AGAIN_MS);
		}
		if (shown === 0 && !out.json) out.say(`${app} (${environment}) wrote nothing in the last ${args.value('since') ?? DEFAULT_SINCE}.`);
		return EXIT.done;
	},
};

/** What the steps of a build printed; with -f until it has ended, however often the connection breaks. */
async function buildLog({ args, out, data }: Invocation, id: string): Promise<Exit> {
	const server = findServer(data);
	const follow = args.flag('follow');
	const step = args.value('step');
	const query = new URLSearchParams({ follow: follow ? '1' : '0', ...(step === null ? {} : { step }) });
	for (let shown = 0; ;) {
		let read = 0;
		try {
			await askLines(server, { path: `/api/v1/builds/${id}/log?${query.toString()}` }, (line) => {
				// Asked again, it begins anew.
				if (++read <= shown) return false;
				shown = read;
				out.line(line as BuildLogLine, logWords(line as BuildLogLine));
				return false;
			});
		} catch (error) {
			// An answer that ends is how the lines end.
			if (!(error instanceof Interrupted)) throw error;
		}
		if (!follow || (await hasEnded(server, id))) break;
		await pause(AGAIN_MS);
	}
	return EXIT.done;
}

async function hasEnded(server: Server, id: string): Promise<boolean> {
	const { build, deployment } = (await ask(server, { path: `/api/v1/builds/${id}` })) as BuildAnswer;
	return deployment !== null || build === null || build.endedAt !== null;
}

/** An app that never was has no lines either, and would be waited for in vain. Logs are there without a database: nothing else counts. */
async function refuseUnknown(server: Server, app: string, environment: string): Promise<void> {
	try {
		await ask(server, { path: `/api/v1/apps/${encodeURIComponent(app)}/status?environment=${encodeURIComponent(environment)}` });
	} catch (error) {
		if (error instanceof ApiFailure && error.code === 'app_unknown') throw error;
	}
}

function sinceMs(text: string): number {
	const ms = durationMs(text);
	if (ms === null) throw usage('--since takes a time such as 90s, 10m, 2h or 1d');
	return ms;
}

function words({ at, region, instance, release, stream, text }: Line): string {
	return `${isoTime(at)} ${region} v${release} ${instance}${stream === 'err' ? ' !' : ''} ${text}`;
}
