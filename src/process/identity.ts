import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';

/** A process that can't be mistaken for another one that got its pid later. */
export interface Identity {
	pid: number;
	/** When it started, in a form that only equality is asked of. */
	start: string;
}

/** The identity of a living process; null when there is none with this pid (a zombie is none). */
export function identify(pid: number): Identity | null {
	const start = process.platform === 'linux' ? linuxStart(pid) : psStart(pid);
	return start === null ? null : { pid, start };
}

export function ownIdentity(): Identity {
	const own = identify(process.pid);
	if (!own) throw new Error(`process ${process.pid} can't read its own start time`);
	return own;
}

export function isAlive(identity: Identity): boolean {
	return identify(identity.pid)?.start === identity.start;
}

let bootId: string | undefined;

function linuxStart(pid: number): string | null {
	let stat: string;
	try {
		stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
	} catch {
		return null; // ENOENT, or ESRCH when it ends while we read
	}
	// The name in parentheses may hold spaces and parentheses itself; field 3 (state) follows the last one.
	const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
	const [state, ticks] = [fields[0], fields[19]];
	if (state === 'Z' || state === 'X' || ticks === undefined) return null;
	// Ticks count from boot: after another boot the same pid may well start in the same tick.
	bootId ??= readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').slice(0, 8);
	return `${bootId}:${ticks}`;
}

function psStart(pid: number): string | null {
	try {
		const start = execFileSync('ps', ['-o', 'lstart=', '-p', String(pid)], {
			encoding: 'utf8',
			stdio: ['ignore', 'pipe', 'ignore'],
		}).trim();
		return start === '' ? null : start;
	} catch {
		return null; // ps ends with 1 when there is no such process
	}
}
