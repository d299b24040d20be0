import { linkSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Cgroup } from './cgroup.ts';
import { isAlive, ownIdentity, type Identity } from './identity.ts';

/** `<data>/pids/<name>.json`: what `jibe down` ends and `jibe up` adopts. */

export interface PidFile extends Identity {
	name: string;
	alive: boolean;
	/** It was started and has not written this file itself yet. */
	starting: boolean;
	/** What to end with it, if it has one: `killTree(file, file.cgroup)`. */
	cgroup?: Cgroup;
}

/**
 * Records a process (the calling one unless given). Atomic: a reader sees the old or the new one. False when the disk is
 * full: what runs is to go on running, and `ps` shows it too.
 */
export function writePidFile(data: string, name: string, identity: Identity = ownIdentity(), cgroup?: Cgroup): boolean {
	return write(data, name, { pid: identity.pid, start: identity.start, cgroup }, renameSync);
}

/**
 * As `writePidFile`, for a process that was just started and does not say yet that it is ready. What it wrote itself, if it
 * was quicker, stays; the file of the one before it must be gone.
 */
export function writeStarting(data: string, name: string, { pid, start }: Identity): boolean {
	return write(data, name, { pid, start, starting: true }, (draft, file) => {
		try {
			linkSync(draft, file);
		} catch (error) {
			if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
		}
		rmSync(draft);
	});
}

function write(data: string, name: string, value: object, arrive: (draft: string, file: string) => void): boolean {
	const directory = join(data, 'pids');
	const file = join(directory, `${name}.json`);
	const draft = `${file}.${process.pid}`;
	try {
		mkdirSync(directory, { recursive: true, mode: 0o700 });
		writeFileSync(draft, JSON.stringify(value), { mode: 0o600 });
		arrive(draft, file);
		return true;
	} catch (error) {
		rmSync(draft, { force: true });
		if (isFull(error)) return false;
		throw error;
	}
}

function isFull(error: unknown): boolean {
	const { code } = error as NodeJS.ErrnoException;
	return code === 'ENOSPC' || code === 'EDQUOT';
}

/** All of them, those of dead processes too. */
export function readPidFiles(data: string): PidFile[] {
	return listNames(join(data, 'pids')).flatMap((name) => readPidFile(data, name) ?? []);
}

export function readPidFile(data: string, name: string): PidFile | null {
	let value: unknown;
	try {
		value = JSON.parse(readFileSync(join(data, 'pids', `${name}.json`), 'utf8'));
	} catch {
		return null; // gone since it was listed, or not ours: a whole one is renamed into place
	}
	if (typeof value !== 'object' || value === null || !('pid' in value) || !('start' in value)) return null;
	const { pid, start } = value;
	if (typeof pid !== 'number' || typeof start !== 'string') return null;
	// Written by us into a directory of ours.
	const cgroup = 'cgroup' in value ? { cgroup: value.cgroup as Cgroup } : {};
	return { name, pid, start, alive: isAlive({ pid, start }), starting: 'starting' in value && value.starting === true, ...cgroup };
}

export function removePidFile(data: string, name: string): void {
	rmSync(join(data, 'pids', `${name}.json`), { force: true });
}

function listNames(directory: string): string[] {
	try {
		return readdirSync(directory)
			.filter((file) => file.endsWith('.json'))
			.map((file) => file.slice(0, -'.json'.length));
	} catch (error) {
		if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
		throw error;
	}
}
