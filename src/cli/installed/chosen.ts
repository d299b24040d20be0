import { existsSync, lstatSync, mkdirSync, readdirSync, realpathSync, renameSync, rmSync, symlinkSync } from 'node:fs'; // prettier-ignore
import { join, relative } from 'node:path';
import { INSTALLED_PLACE, readInstalled } from './note.ts';
import { readPackage, type Package } from './package.ts';

/**
 * Which version an installation is to run: `current`, a link in the place where its packages lie. That is `<data>/programs`,
 * or for one that `jibe install` made a place that other users can read, too. Without a link it is whatever starts it.
 */

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
