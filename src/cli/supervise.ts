import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { programTitle } from '#process/title.ts';
import { EXIT, Failure, type Exit } from './failure.ts';
import { count, table, type Output } from './output.ts';
import type { UpSettings } from './up/installation.ts';
import { programEnvironment, scriptOf } from './up/programs.ts';
import type { Ready, Told } from './up/told.ts';

/** The supervisor as a process of its own, started by `jibe up` and `jibe agent join`. */

/** In a session of its own: neither a closed terminal nor a Ctrl-C meant for us ends it before it has put things in order. */
export function startSupervisor(settings: UpSettings): ChildProcess {
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

/** Shows what it tells, until everything is ready or, without `detach`, until it ends. */
export function supervise(supervisor: ChildProcess, out: Output, detach: boolean): Promise<Exit> {
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
	const adopted = ready.adopted > 0 ? `, ${ready.adopted} of ${ready.programs} programs were running already` : '';
	const last = detach ? '  jibe down stops it' : '  Ctrl-C stops it';
	if (ready.server !== undefined) {
		out.result(ready, [
			`This is the server ${ready.server} of region ${ready.region} (control is at ${ready.url}${adopted})`,
			...ready.regions.map(({ url }) => `  apps answer at ${url}`),
			`  data in ${ready.data}`,
			last,
		]);
		return;
	}
	const rows = ready.regions.slice(0, MAX_REGIONS_SHOWN).map(({ name, url }) => [name, url.replace('127.0.0.1', '<app>.localhost')]);
	out.result(ready, [
		`Jibe is running at ${ready.url} (${count(ready.regions.length, 'region')}${adopted})`,
		...(rows.length > 0 ? table(['region', 'apps answer at'], rows).map((line) => `  ${line}`) : []),
		...(ready.login === undefined ? [] : [`  from other machines: jibe login ${ready.login}`]),
		`  data in ${ready.data}; the admin's token in ${join(ready.data, 'admin.token')}`,
		last,
	]);
}
