import { readdirSync, readFileSync, realpathSync } from 'node:fs';
import { identify, type Identity } from '#process/identity.ts';
import { readPidFiles } from '#process/pid-file.ts';

/** The processes of an installation, whoever started them and whatever is written of them. */

export interface Found extends Identity {
	role: string;
	/** As its pid file is called: `control`, `edge-0`. */
	name: string;
}

/**
 * By pid files and by what `ps` shows; the one finds what hides from the other: a supervisor that is killed may have
 * started what it had no time to write down.
 */
export function findProcesses(data: string): Found[] {
	const byPid = new Map<number, Found>();
	for (const { name, alive, pid, start } of readPidFiles(data)) {
		const role = /^[a-z]+/.exec(name)?.[0] ?? name;
		if (alive && role !== 'postgres') byPid.set(pid, { role, name, pid, start });
	}
	const real = realPath(data);
	for (const pid of processIds()) {
		if (byPid.has(pid)) continue;
		const words = readWords(pid);
		const role = /^jibe (up|control|builder|agent|depot|edge|instance)$/.exec(words[0] ?? '')?.[1];
		const last = words.at(-1);
		if (role === undefined || last === undefined || (last !== data && last !== real)) continue;
		const identity = identify(pid);
		if (identity !== null) byPid.set(pid, { role, name: nameOf(role, words), ...identity });
	}
	return [...byPid.values()];
}

/** It stands before the directory, where it is not the role itself. */
function nameOf(role: string, words: readonly string[]): string {
	const label = words.at(-2) ?? '';
	return label.startsWith(`${role}-`) && !label.includes('/') ? label : role;
}

function realPath(data: string): string | null {
	try {
		return realpathSync(data);
	} catch {
		return null; // no such directory, so nothing of it either
	}
}

function processIds(): number[] {
	try {
		return readdirSync('/proc').map(Number).filter(Number.isInteger);
	} catch {
		return []; // no /proc: the pid files have to do
	}
}

function readWords(pid: number): string[] {
	try {
		return readFileSync(`/proc/${pid}/cmdline`, 'utf8').replace(/\0$/, '').split('\0');
	} catch {
		return []; // ended meanwhile
	}
}
