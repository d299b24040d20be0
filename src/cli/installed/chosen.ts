import { existsSync, lstatSync, mkdirSync, readdirSync, readFileSync, realpathSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'; // prettier-ignore
import { join, relative } from 'node:path';
import { readPackage, type Package } from './package.ts';

/**
 * Which version an installation is to run: `current`, a link in the place where its packages lie. That is `<data>/programs`,
 * or for one that `jibe install` made a place that other users can read, too. Without a link it is whatever starts it.
 */

/** What `jibe install` made, so that `jibe uninstall` finds it. Root's alone: it names what root will delete. */
export interface Installed {
	data: string;
	/** Name of the unit of systemd, or label of launchd. */
	service: string;
	manager: 'systemd' | 'launchd';
	/** Every file and link that was written. */
	files: string[];
	/** The user that was made for it, or null. */
	madeUser: string | null;
}

/** Where `jibe install` puts packages: everybody may read it, so that everybody's `jibe` is the one that runs. */
export const INSTALLED_PLACE = '/opt/jibe';
const NOTE = join(INSTALLED_PLACE, 'installed.json');

/** Null when this directory was not installed as a service. */
export function readInstalled(data: string): Installed | null {
	try {
		const installed = JSON.parse(readFileSync(NOTE, 'utf8')) as Installed;
		return installed.data === data ? installed : null;
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

export function placeOf(data: string): string {
	return readInstalled(data) ? INSTALLED_PLACE : join(data, 'programs');
}

const CURRENT = 'current';

/** Null: none was chosen, or what was chosen is gone. */
export function chosenPackage(data: string): Package | null {
	const link = join(placeOf(data), CURRENT);
	return existsSync(join(link, 'package.json')) ? readPackage(link) : null;
}

/** One rename: whoever starts meanwhile finds the old or the new one. */
export function choosePackage(place: string, { root }: Package): void {
	mkdirSync(place, { recursive: true, mode: 0o755 });
	const draft = join(place, `.${CURRENT}-${process.pid}`);
	rmSync(draft, { force: true });
	symlinkSync(root.startsWith(`${place}/`) ? relative(place, root) : root, draft);
	renameSync(draft, join(place, CURRENT));
}

/** Packages in the place that are neither chosen nor `kept`, and what an interrupted upgrade left. Their names. */
export function removeOthers(place: string, kept: readonly string[]): string[] {
	if (!existsSync(place)) return [];
	const link = join(place, CURRENT);
	const roots = [...(existsSync(link) ? [realpathSync(link)] : []), ...kept];
	const others = readdirSync(place).filter((name) => {
		const path = join(place, name);
		return lstatSync(path).isDirectory() && !roots.some((root) => root.startsWith(`${path}/`));
	});
	for (const name of others) rmSync(join(place, name), { recursive: true, force: true });
	return others;
}
