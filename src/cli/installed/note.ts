import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** What `jibe install` made, so that `jibe uninstall` finds it. Root's alone: it names what root will delete. */
export interface Installed {
	data: string;
	/** Name of the unit of systemd, or label of launchd. */
	service: string;
	manager: 'systemd' | 'launchd';
	/** Every file and link that was written. */
	files: string[];
	/** Directories that were made for them, outermost first. */
	madeDirectories: string[];
	/** Whom it runs as; null: root. */
	user: { name: string; uid: number } | null;
	/** The user that was made for it, or null. */
	madeUser: string | null;
}

/** Where `jibe install` puts packages: everybody may read it, so that everybody's `jibe` is the one that runs. */
export const INSTALLED_PLACE = '/opt/jibe';
const NOTE = join(INSTALLED_PLACE, 'installed.json');

/** Null when this directory was not installed as a service. */
export function readInstalled(data: string): Installed | null {
	const installed = readNote();
	return installed?.data === data ? installed : null;
}

/** The directory of this machine's service. */
export function installedData(): string | null {
	return readNote()?.data ?? null;
}

function readNote(): Installed | null {
	try {
		return JSON.parse(readFileSync(NOTE, 'utf8')) as Installed;
	} catch (error) {
		if (['ENOENT', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code ?? '')) return null;
		throw error;
	}
}

export function writeInstalled(installed: Installed): void {
	mkdirSync(INSTALLED_PLACE, { recursive: true, mode: 0o755 });
	writeFileSync(`${NOTE}.draft`, `${JSON.stringify(installed, null, '\t')}\n`, { mode: 0o644 });
	renameSync(`${NOTE}.draft`, NOTE);
}
