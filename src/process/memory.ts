import { readFileSync } from 'node:fs';

/**
 * Proportional set size of a process in KiB: what its end would free, with each shared page divided by its users.
 * Null when it is gone, may not be read, or the platform has no such figure.
 */
export function pssKiB(pid: number): number | null {
	try {
		const match = /^Pss:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8'));
		return match ? Number(match[1]) : null;
	} catch {
		return null;
	}
}
