import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { hash } from 'node:crypto';
import { join } from 'node:path';
import type { Place } from './layout.ts';

/**
 * A uid of its own for each (app, environment): what one may read, signal or trace, another may not. Recorded as files
 * named by the uid, made with O_EXCL, so that several agents of one installation never give the same one away.
 */

/** Above what distributions, containers and user namespaces give out, below 2³¹. */
const FIRST_UID = 2_000_000_000;
const UIDS_OF_AN_INSTALLATION = 1_000;
const INSTALLATIONS = 100_000;

export function uidOf(data: string, { app, environment }: Place): number {
	const directory = join(data, 'uids');
	mkdirSync(directory, { recursive: true, mode: 0o700 });
	const owner = `${app}/${environment}`;
	const first = FIRST_UID + (Number.parseInt(hash('sha256', data, 'hex').slice(0, 8), 16) % INSTALLATIONS) * UIDS_OF_AN_INSTALLATION;
	const taken = new Map(readdirSync(directory).map((name) => [readFileSync(join(directory, name), 'utf8'), Number(name)]));
	const known = taken.get(owner);
	if (known !== undefined) return known;
	const used = new Set(taken.values());
	for (let uid = first; uid < first + UIDS_OF_AN_INSTALLATION; uid++) {
		if (used.has(uid)) continue;
		try {
			writeFileSync(join(directory, String(uid)), owner, { flag: 'wx', mode: 0o600 });
			return uid;
		} catch (error) {
			if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
		}
	}
	throw new Error(`all ${UIDS_OF_AN_INSTALLATION} uids of this installation are taken; remove files of removed apps from ${directory}`);
}
