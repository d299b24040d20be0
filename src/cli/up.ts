import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { programTitle } from '#process/title.ts';
import { storePlace } from '#store/store-place.ts';
import { EXIT, Failure, usage, type Exit } from './failure.ts';
import { chosenPackage } from './installed/chosen.ts';
import { ownPackage } from './installed/package.ts';
import { count, table, type Output } from './output.ts';
import { refuseWhenRunning } from './up/claim.ts';
import { openData, regionNames, type UpSettings } from './up/installation.ts';
import { programEnvironment, scriptOf } from './up/programs.ts';
import type { Ready, Told } from './up/told.ts';
import type { Invocation, Verb } from './verbs.ts';

/** `jibe up`: starts the supervisor as a process of its own and shows what it tells, until everything is ready or, without `--detach`, until it ends. */
export const verb: Verb = {
	syntax: {
		options: {
			regions: 'value',
			port: 'value',
			'edge-port': 'value',
			store: 'value',
			detach: 'flag',
			'take-over': 'flag',
			service: 'flag',
		},
		positionals: [],
		optional: 0,
	},
	async run(invocation: Invocation): Promise<Exit> {
		const { args, out, data } = invocation;
		runChosen(data);
		const regions = args.value('regions');
		const settings: UpSettings = {
			data,
			regions: regions === null ? null : regionNames(regions),
			port: portOption(args.value('port'), '--port'),
			edgePort: portOption(args.value('edge-port'), '--edge-port'),
			store: storeOption(args.value('store')),
			separate: process.env['JIBE_SEPARATE'] === '1',
			takeOver: args.flag('take-over') || args.flag('service'),
		};
		openData(data);
		if (!settings.takeOver) refuseWhenRunning(data);
		if (args.flag('service')) become(settings);
		return supervise(startSupervisor(settings), out, args.flag('detach'));
	},
};

/** `jibe upgrade` chose a version for this directory: the command of an older one hands over to it. */
function runChosen(data: string): void {
	const [own, chosen] = [ownPackage(), chosenPackage(data)];
	if (chosen === null || chosen.root === own.root || compareVersions(own.version, chosen.version) > 0) return;
	const command = join(chosen.root, 'bin', 'jibe');
	process.execve?.(command, [command, ...process.argv.slice(2)], process.env);
}

/** Negative when `a` is older than `b`. */
function compareVersions(a: string, b: string): number {
	return a.localeCompare(b, 'en', { numeric: true });
}

/** What a service manager starts and watches is the supervisor itself. */
function become(settings: UpSettings): void {
	const words = [programTitle('up'), ...scriptOf('up'), settings.data];
	process.execve?.(process.execPath, words, programEnvironment(settings.data, 'up', settings));
}

function portOption(text: string | null, option: string): number | null {
	if (text === null) return null;
	const port = Number(text);
	if (!/^\d+$/.test(text) || port < 1 || port > 65_535) throw usage(`${option} takes a port from 1 to 65535`);
	return port;
}

function storeOption(url: string | null): string | null {
	if (url === null) return null;
	try {
		storePlace(url);
		return url;
	} catch (error) {
		throw usage((error as Error).message);
	}
}

/** In a session of its own: neither a closed terminal nor a Ctrl-C meant for us ends it before it has put things in order. */
function startSupervisor(settings: UpSettings): ChildProcess {
	const log = openSync(join(settings.data, 'logs', 'up.log'), 'a', 0o600);
	try {
		return spawn(process.execPath, [...scriptOf('up'), settings.data], {
			argv0: programTitle('up'),
			cwd: settings.data,
			detached: true,
			env: programEnvironment(settings.data, 'up', settings),
			stdio: ['ignore', 'pipe', log],
		});
	} finally {
		closeSync(log);
	}
}

function supervise(supervisor: ChildProcess, out: Output, detach: boolean): Promise<Exit> {
	const pass = (signal: NodeJS.Signals) => supervisor.kill(signal);
	for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, pass);
	return new Promise((resolve, reject) => {
		let stopped = false;
		const hear = (told: Told) => {
			if ('now' in told) out.now(told.now);
			else if ('said' in told) out.say(told.said);
			else if ('warning' in told) out.say(`! Not isolated: ${told.warning}`);
			else if ('stopped' in told) stopped = true;
			else if ('failed' in told) reject(new Failure(told.failed.code, told.failed.exit, told.failed.message, { hint: told.failed.hint }));
			else {
				showReady(told.ready, out, detach);
				if (detach) resolve(EXIT.done);
			}
		};
		if (supervisor.stdout) createInterface({ input: supervisor.stdout }).on('line', (line) => hear(JSON.parse(line) as Told));
		supervisor.once('error', reject);
		supervisor.once('close', (code, signal) => {
			if (stopped) {
				out.say('Stopped.');
				resolve(EXIT.done);
			} else
				reject(
					new Failure('supervisor_ended', EXIT.jibe, `the supervisor ended (${signal ?? `exit code ${code}`})`, {
						hint: 'what it started goes on; jibe up takes it over, jibe down ends it',
					}),
				);
		});
	});
}

const MAX_REGIONS_SHOWN = 24;

function showReady(ready: Ready, out: Output, detach: boolean): void {
	const rows = ready.regions.slice(0, MAX_REGIONS_SHOWN).map(({ name, url }) => [name, url.replace('127.0.0.1', '<app>.localhost')]);
	const adopted = ready.adopted > 0 ? `, ${ready.adopted} of ${ready.programs} programs were running already` : '';
	out.result(ready, [
		`Jibe is running at ${ready.url} (${count(ready.regions.length, 'region')}${adopted})`,
		...table(['region', 'apps answer at'], rows).map((line) => `  ${line}`),
		`  data in ${ready.data}; the admin's token in ${join(ready.data, 'admin.token')}`,
		detach ? '  jibe down stops it' : '  Ctrl-C stops it',
	]);
}
