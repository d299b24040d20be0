import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Bind } from '#process/spawn.ts';

/**
 * Where everything of an agent lies, and where an app sees it. With mount namespaces an app sees its own things below
 * `<run>/m/<app>/<environment>` and nothing else of the (private) data directory; without, it sees them where they are.
 * An app's paths hold no release, region or digest of its code, because V8's compile cache is keyed by URL.
 */
export interface Layout {
	home: string;
	run: string;
	/** Apps get binds: the two kinds of paths differ. */
	mounts: boolean;
	/** The Node that runs instances. */
	node: string;
	/** Directory of the instance program, and its file below it. */
	program: { root: string; file: string };
}

export interface Place {
	app: string;
	environment: string;
}

export function appDirectory(layout: Layout, { app, environment }: Place): string {
	return join(layout.home, 'apps', app, environment);
}

export function slotDirectory(layout: Layout, place: Place, slot: number): string {
	return join(appDirectory(layout, place), String(slot));
}

export function packFile(layout: Layout, place: Place, slot: number, kind: 'modules' | 'maps'): string {
	return join(appDirectory(layout, place), 'packs', `${slot}.${kind}`);
}

/** Vendor trees are shared by all apps that have the same. */
export function vendorDirectory(layout: Layout, digest: string): string {
	return join(layout.home, 'vendor', vendorName(digest));
}

export function filesDirectory(layout: Layout, { app, environment }: Place): string {
	return join(layout.home, 'files', app, environment);
}

export function cacheDirectory(layout: Layout, { app, environment }: Place): string {
	return join(layout.home, 'cache', app, environment);
}

export function socketDirectory(layout: Layout, id: string): string {
	return join(layout.run, 's', id);
}

export function logFile(layout: Layout, id: string): string {
	return join(layout.home, 'logs', `${id}.log`);
}

/** The same places as an instance sees them. */
export interface View {
	app: string;
	vendor: string | null;
	files: string;
	cache: string;
	node: string;
	program: string;
	binds: Bind[];
}

export function viewOf(layout: Layout, place: Place, vendor: string | null): View {
	const own = {
		app: appDirectory(layout, place),
		vendor: vendor === null ? null : vendorDirectory(layout, vendor),
		files: filesDirectory(layout, place),
		cache: cacheDirectory(layout, place),
	};
	if (!layout.mounts) return { ...own, node: layout.node, program: join(layout.program.root, layout.program.file), binds: [] };
	const at = join(layout.run, 'm', place.app, place.environment);
	const seen = {
		app: join(at, 'app'),
		vendor: vendor === null ? null : join(at, 'vendor', vendorName(vendor)),
		files: join(at, 'files'),
		cache: join(at, 'cache'),
		node: join(layout.run, 'm', 'node'),
		program: join(layout.run, 'm', 'program', layout.program.file),
	};
	const binds: Bind[] = [
		{ from: own.app, to: seen.app, readonly: true },
		...(own.vendor && seen.vendor ? [{ from: own.vendor, to: seen.vendor, readonly: true }] : []),
		{ from: own.files, to: seen.files, readonly: false },
		{ from: own.cache, to: seen.cache, readonly: false },
		{ from: layout.node, to: seen.node, readonly: true },
		{ from: layout.program.root, to: join(layout.run, 'm', 'program'), readonly: true },
	];
	return { ...seen, binds };
}

/** Makes the directories and mount points of an app; `chown` gives to the app what is the app's. */
export function makePlaces(layout: Layout, place: Place, view: View, chown: (directory: string) => void): void {
	mkdirSync(join(appDirectory(layout, place), 'packs'), { recursive: true });
	for (const directory of [filesDirectory(layout, place), cacheDirectory(layout, place)]) {
		mkdirSync(directory, { recursive: true, mode: 0o700 });
		chown(directory);
	}
	if (!layout.mounts) return;
	for (const { to } of view.binds) if (to !== view.node) mkdirSync(to, { recursive: true });
}

function vendorName(digest: string): string {
	return digest.replace('sha256:', '').slice(0, 16);
}
