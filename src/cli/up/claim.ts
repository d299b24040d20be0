import { linkSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { isAlive, ownIdentity, type Identity } from '#process/identity.ts';
import { signalProcess } from '#process/control.ts';
import { readPidFile } from '#process/pid-file.ts';
import { EXIT, Failure } from '../failure.ts';
import { endpointUrl } from './installation.ts';
import { hasEnded } from './keeper.ts';

/** One supervisor a data directory. @throws Failure (already_running) */
export function claim(data: string): void {
	const file = join(data, 'pids', 'up.json');
	const own = ownIdentity();
	const draft = `${file}.${process.pid}`;
	writeFileSync(draft, JSON.stringify(own), { mode: 0o600 });
	try {
		while (!links(draft, file)) setAsideDead(data, file);
	} finally {
		rmSync(draft, { force: true });
	}
}

/** A link fails where the file exists: of two that try at the same moment one wins. */
function links(draft: string, file: string): boolean {
	try {
		linkSync(draft, file);
		return true;
	} catch (error) {
		if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
		throw error;
	}
}

function setAsideDead(data: string, file: string): void {
	refuseWhenRunning(data);
	const aside = `${file}.dead.${process.pid}`;
	try {
		renameSync(file, aside);
	} catch (error) {
		if ((error as NodeJS.ErrnoException).code === 'ENOENT') return;
		throw error;
	}
	// Another one may have taken the place of the dead between our look and our rename: it goes back.
	const moved = JSON.parse(readFileSync(aside, 'utf8')) as Identity;
	if (isAlive(moved)) links(aside, file);
	rmSync(aside, { force: true });
}

/** @throws Failure (already_running) while a supervisor of this directory lives */
export function refuseWhenRunning(data: string): void {
	const running = readPidFile(data, 'up');
	if (!running?.alive) return;
	const url = endpointUrl(data);
	throw new Failure('already_running', EXIT.usage, `already running at ${url ?? data} (pid ${running.pid})`, {
		hint: 'jibe down stops it; another installation needs another --data DIR',
		fields: { url, pid: running.pid },
	});
}

const LET_GO_WITHIN_MS = 1_000;

/** The supervisor ends at this signal and leaves everything running; one that is stuck must not start things again. */
export async function letGo(supervisor: Identity): Promise<void> {
	if (supervisor.pid === process.pid || !signalProcess(supervisor, 'SIGUSR2')) return;
	if (await hasEnded(supervisor, LET_GO_WITHIN_MS)) return;
	signalProcess(supervisor, 'SIGKILL');
	await hasEnded(supervisor, LET_GO_WITHIN_MS);
}

/** Ends the directory's supervisor, if it has one, so that another one can take its place; all else runs on. */
export async function takeOver(data: string): Promise<void> {
	const running = readPidFile(data, 'up');
	if (running?.alive) await letGo(running);
}
