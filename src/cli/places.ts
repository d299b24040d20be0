import { homedir } from 'node:os';
import { isAbsolute, join, resolve } from 'node:path';
import { isRoot } from '#process/directory.ts';
import { installedData } from './installed/note.ts';

/** Where things are on this machine. */

/** Everything of one installation: `--data`, else JIBE_DATA, else, for root, the service's, else the platform's data directory. */
export function dataDirectory(option: string | null): string {
	const named = option ?? process.env['JIBE_DATA'];
	if (named) return resolve(named);
	const service = isRoot() ? installedData() : null;
	if (service !== null) return service;
	if (process.platform === 'darwin') return join(homedir(), 'Library', 'Application Support', 'jibe');
	const base = process.env['XDG_DATA_HOME'];
	return base && isAbsolute(base) ? join(base, 'jibe') : join(homedir(), '.local', 'share', 'jibe');
}

/** What may be deleted at any time and only makes the next run slower. */
export function cacheDirectory(): string {
	const base = process.env['XDG_CACHE_HOME'];
	return base && isAbsolute(base) ? join(base, 'jibe') : join(homedir(), '.cache', 'jibe');
}

/** Servers that `jibe login` remembered, with their tokens (0600). */
export function loginFile(): string {
	const base = process.env['XDG_CONFIG_HOME'];
	return join(base && isAbsolute(base) ? base : join(homedir(), '.config'), 'jibe', 'login.json');
}
