import { lstatSync, readFileSync, rmdirSync, rmSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { createInterface } from 'node:readline/promises';
import { isRoot, runDirectory, serviceRunRoot } from '#process/directory.ts';
import { EXIT, Failure, type Exit } from './failure.ts';
import { INSTALLED_PLACE, readInstalled, type Installed } from './installed/note.ts';
import { call, forgetService, stopService } from './installed/service.ts';
import { cacheDirectory } from './places.ts';
import { stopInstallation } from './up/stop.ts';
import type { Invocation, Verb } from './verbs.ts';

/** `jibe uninstall`: ends an installation and takes away all that it left on this machine, in an order that can be begun again. */
export const verb: Verb = {
	syntax: { options: { 'keep-data': 'flag' }, positionals: [], optional: 0 },
	async run({ args, out, data }: Invocation): Promise<Exit> {
		const installed = readInstalled(data);
		if (installed && !isRoot()) {
			throw new Failure('not_root', EXIT.notAllowed, 'a service of the machine is removed by root', { hint: 'sudo jibe uninstall' });
		}
		const keep = args.flag('keep-data');
		if (!keep && !(await isMeant(data))) throw new Failure('not_confirmed', EXIT.usage, 'nothing was removed');
		if (installed) stopService(installed);
		out.now(`Stopping what runs on ${data}…`);
		const stopped = await stopInstallation(data, (line) => out.now(line));
		const run = runPlace(data);
		for (const place of run === null ? [] : [run, data]) unmountBelow(place);
		if (run !== null) removeRun(run);
		if (installed?.user) removeEmpty(serviceRunRoot(installed.user.uid));
		const removed: string[] = [];
		const remove = (path: string) => {
			if (lstatSync(path, { throwIfNoEntry: false }) === undefined) return;
			rmSync(path, { recursive: true, force: true });
			removed.push(path);
		};
		if (installed) takeDown(installed, keep, remove);
		if (!keep) {
			for (const path of [data, cacheDirectory()]) remove(path);
			removeEmpty(dirname(cacheDirectory()));
		}
		out.result({ stopped, removed, data, kept: keep }, [
			`✓ Jibe is gone from ${data}${keep ? ', which was kept' : ''}: ${stopped} ${stopped === 1 ? 'process' : 'processes'} stopped`,
			...removed.map((path) => `  removed ${path}`),
			...(installed?.madeUser && keep ? [`  the user ${installed.madeUser} was kept: the directory is its own`] : []),
		]);
		return EXIT.done;
	},
};

/** On a terminal a person is asked: what is removed can't be brought back. */
async function isMeant(data: string): Promise<boolean> {
	if (!process.stdin.isTTY || statSync(data, { throwIfNoEntry: false }) === undefined) return true;
	const ask = createInterface({ input: process.stdin, output: process.stderr });
	const answer = await ask.question(`${data} is deleted with all apps, releases and the database (--keep-data leaves it). Type yes: `);
	ask.close();
	return answer.trim() === 'yes';
}

/** Null: the directory is gone, and what was its run directory can't be told any more. */
function runPlace(data: string): string | null {
	return statSync(data, { throwIfNoEntry: false }) === undefined ? null : runDirectory(data);
}

/** Mounts go with the processes that made them for themselves; these are those that somebody else made. */
function unmountBelow(place: string): void {
	if (process.platform !== 'linux') return;
	const points = readFileSync('/proc/self/mountinfo', 'utf8')
		.split('\n')
		.map((line) =>
			(line.split(' ')[4] ?? '').replaceAll(/\\(\d{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8))),
		)
		.filter((point) => point.startsWith(`${place}/`))
		.toSorted((a, b) => b.length - a.length);
	for (const point of points) call('umount', ['--lazy', point]);
}

/** The place where run directories are, too, when this was the last. */
function removeRun(directory: string): void {
	rmSync(directory, { recursive: true, force: true });
	removeEmpty(dirname(directory));
}

function removeEmpty(directory: string): void {
	try {
		rmdirSync(directory);
	} catch (error) {
		// Something else is in it, or it is somebody else's.
		if (!['ENOTEMPTY', 'ENOENT', 'EACCES', 'EPERM', 'EBUSY'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error;
	}
}

function takeDown(installed: Installed, keep: boolean, remove: (path: string) => void): void {
	forgetService(installed, () => installed.files.forEach(remove));
	for (const directory of installed.madeDirectories.toReversed()) removeEmpty(directory);
	if (installed.madeUser !== null && !keep) call('userdel', [installed.madeUser]);
	// Last, because what is to be removed stands in it.
	remove(INSTALLED_PLACE);
}
