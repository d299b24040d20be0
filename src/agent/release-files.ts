import { existsSync, mkdirSync, readFileSync, renameSync, symlinkSync, writeFileSync } from 'node:fs';
import { mkdir, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { canonicalJson, sha256, type Digest } from '#digest/digest.ts';
import type { AppIndex } from '#store/app-index.ts';
import type { Entry, Manifest } from '#store/manifest.ts';
import { buildModulePack, openModulePack, readModulePack, writeModulePack, type ModulePack } from '#store/module-pack.ts';
import type { ReleaseSpec } from '#wire/region.ts';
import { FetchError, type DepotClient } from './depot-client.ts';
import { appDirectory, packFile, slotDirectory, vendorDirectory, viewOf, type Layout, type Place } from './layout.ts';
import type { Library } from './library.ts';

/** The files of a release on this server: vendor tree, slot directory, packs. Shared by all its instances here. */
export interface ReleaseFiles {
	slot: number;
	/** As the instances see them. */
	root: string;
	pack: string;
	maps: string;
	/** Packages to import before there is an app, next time. */
	preimport: string[];
	release(): void;
}

interface Slot {
	artifact: Digest;
	vendor: Digest | null;
	/** Digest over what is in the directory: equal means that nothing has to be written. */
	content: Digest;
	users: number;
}

/** So many travel in one request; each is in memory until it is written. */
const FETCHES_AT_A_TIME = 128;

export interface Shelf {
	/** @throws FetchError */
	place(spec: ReleaseSpec): Promise<ReleaseFiles>;
	/** All of it as real files in a directory of its own, for a command that is run beside it. @throws FetchError */
	lay(spec: ReleaseSpec, directory: string): Promise<void>;
	/** For instances that were adopted: the slot is in use again. */
	adopt(place: Place, slot: number): () => void;
	/** What a release that is on disk imports of its packages; empty when it is not. */
	preimport(spec: ReleaseSpec): string[];
}

export function createShelf(of: { layout: Layout; library: Library; depot: DepotClient }): Shelf {
	const { layout, library } = of;
	/** `lastMaps`: a file, because nothing but the next pack is made of it. */
	const apps = new Map<string, { slots: Map<number, Slot>; last: ModulePack | null; lastMaps: string | null }>();
	const placing = new Map<string, Promise<Omit<ReleaseFiles, 'release'>>>();
	const vendors = new Map<Digest, Promise<void>>();

	function appOf(place: Place) {
		const key = `${place.app}/${place.environment}`;
		let app = apps.get(key);
		if (!app) apps.set(key, (app = { slots: readSlots(layout, place), last: null, lastMaps: null }));
		return app;
	}

	function chooseSlot(place: Place, spec: ReleaseSpec): number {
		const { slots } = appOf(place);
		for (const [number, slot] of slots) if (slot.artifact === spec.artifact && slot.vendor === spec.vendor) return number;
		for (const [number, slot] of slots) if (slot.users === 0) return number;
		return slots.size;
	}

	async function fill(spec: ReleaseSpec, number: number): Promise<Omit<ReleaseFiles, 'release'>> {
		const [manifest] = await Promise.all([library.manifest(spec.artifact), spec.vendor && vendor(spec.vendor)]);
		const indexEntry = manifest.get('index.json');
		if (!indexEntry || 'link' in indexEntry) throw new FetchError(`the artifact ${spec.artifact} has no index.json`);
		const indexJson = await library.blob(indexEntry[0]);
		const index = JSON.parse(indexJson.toString()) as AppIndex;
		const app = appOf(spec);
		const modules = await packModules(manifest, 'modules/', indexJson, app.last);
		writeModulePack(packFile(layout, spec, number, 'modules'), modules);
		app.last = openModulePack(modules);
		await fillDirectory(spec, number, manifest, index.materialise);
		void packMaps(manifest, packFile(layout, spec, number, 'maps'), app);
		const view = viewOf(layout, spec, spec.vendor);
		const pack = (kind: string) => join(view.app, 'packs', `${number}.${kind}`);
		return { slot: number, root: join(view.app, String(number)), pack: pack('modules'), maps: pack('maps'), preimport: index.vendor ?? [] };
	}

	async function packMaps(manifest: Manifest, file: string, app: { lastMaps: string | null }): Promise<void> {
		try {
			const previous = app.lastMaps === null ? null : readModulePack(app.lastMaps);
			app.lastMaps = null;
			writeModulePack(file, await packModules(manifest, 'maps/', Buffer.from('{"modules":{}}'), previous));
			app.lastMaps = file;
		} catch {
			// stack traces name compiled places until the depot has the maps
		}
	}

	async function packModules(manifest: Manifest, prefix: string, indexJson: Buffer, previous: ModulePack | null): Promise<Buffer> {
		const wanted = new Map<string, Digest>();
		for (const [path, entry] of manifest) {
			if (!path.startsWith(prefix) || 'link' in entry) continue;
			const name = path.slice(prefix.length);
			wanted.set(prefix === 'maps/' ? name.replace(/\.map$/, '') : name, entry[0]);
		}
		const bodies = new Map<Digest, Buffer>();
		const missing = [...wanted].filter(([path, digest]) => previous?.digest(path) !== digest).map(([, digest]) => digest);
		await each(missing, async (digest) => void bodies.set(digest, await library.blob(digest)));
		return buildModulePack({ indexJson, wanted, previous, read: (digest) => bodies.get(digest)! });
	}

	/** Real files: everything but modules, and the modules too when something needs to find them. */
	async function fillDirectory(spec: ReleaseSpec, number: number, manifest: Manifest, materialise: boolean): Promise<void> {
		const entries: [string, Entry][] = [];
		for (const [path, entry] of manifest) {
			if (path.startsWith('files/')) entries.push([path.slice('files/'.length), entry]);
			else if (materialise && path.startsWith('modules/')) entries.push([path.slice('modules/'.length), entry]);
		}
		const content = sha256(canonicalJson([entries, spec.vendor]));
		const { slots } = appOf(spec);
		const slot = slots.get(number);
		const directory = slotDirectory(layout, spec, number);
		if (slot?.content !== content || !existsSync(directory)) {
			const vendorView = viewOf(layout, spec, spec.vendor).vendor;
			const draft = `${directory}.draft`;
			await writeTree(draft, entries, library);
			if (vendorView) await symlink(join(vendorView, 'node_modules'), join(draft, 'node_modules'));
			await rm(directory, { recursive: true, force: true });
			await rename(draft, directory);
		}
		if (slot) slot.content = content;
		writeSlots(layout, spec, slots);
	}

	/** A vendor tree as real files, read-only, shared. */
	function vendor(digest: Digest): Promise<void> {
		let work = vendors.get(digest);
		if (!work) {
			work = makeVendor(digest);
			vendors.set(digest, work);
			work.catch(() => vendors.delete(digest));
		}
		return work;
	}

	async function makeVendor(digest: Digest): Promise<void> {
		const directory = vendorDirectory(layout, digest);
		if (existsSync(directory)) return;
		const draft = `${directory}.${process.pid}.draft`;
		await writeTree(draft, [...(await library.manifest(digest))], { blob: (blob) => of.depot.blob(blob) });
		await rename(draft, directory);
	}

	return {
		async place(spec) {
			const key = `${spec.app}/${spec.environment}/${spec.artifact}/${spec.vendor}`;
			const number = chooseSlot(spec, spec);
			const { slots } = appOf(spec);
			const slot = slots.get(number);
			const same = slot?.artifact === spec.artifact && slot.vendor === spec.vendor;
			const mine: Slot = same ? slot : { artifact: spec.artifact, vendor: spec.vendor, content: slot?.content ?? 'sha256:', users: 0 };
			slots.set(number, mine);
			mine.users++;
			const release = once(() => void mine.users--);
			let work = placing.get(key);
			if (!work) {
				work = fill(spec, number);
				placing.set(key, work);
				work.catch(() => {}).finally(() => mine.users === 0 && placing.delete(key));
			}
			try {
				return { ...(await work), release: () => (release(), mine.users === 0 && placing.delete(key)) };
			} catch (error) {
				release();
				placing.delete(key);
				throw error;
			}
		},
		async lay(spec, directory) {
			const [manifest] = await Promise.all([library.manifest(spec.artifact), spec.vendor && vendor(spec.vendor)]);
			const entries = new Map<string, Entry>();
			for (const [path, entry] of manifest) {
				const [, kind, file] = /^(files|modules)\/(.+)$/s.exec(path) ?? [];
				if (file !== undefined && (kind === 'files' || !entries.has(file))) entries.set(file, entry);
			}
			await writeTree(directory, [...entries], library);
			const vendorView = viewOf(layout, spec, spec.vendor).vendor;
			if (vendorView) await symlink(join(vendorView, 'node_modules'), join(directory, 'node_modules'));
		},
		adopt(place, number) {
			const slot = appOf(place).slots.get(number);
			if (slot) slot.users++;
			return once(() => void (slot && slot.users--));
		},
		preimport(spec) {
			for (const [number, slot] of appOf(spec).slots) {
				if (slot.artifact !== spec.artifact) continue;
				try {
					return readModulePack(packFile(layout, spec, number, 'modules')).index.vendor;
				} catch {
					return []; // written anew at the next start
				}
			}
			return [];
		},
	};
}

async function writeTree(directory: string, entries: [string, Entry][], library: Pick<Library, 'blob'>): Promise<void> {
	await rm(directory, { recursive: true, force: true });
	await mkdir(directory, { recursive: true });
	const made = new Set<string>();
	await each(entries, async ([path, entry]) => {
		const file = join(directory, path);
		if (!made.has(dirname(file))) {
			made.add(dirname(file));
			mkdirSync(dirname(file), { recursive: true });
		}
		if ('link' in entry) return symlinkSync(entry.link, file);
		await writeFile(file, await library.blob(entry[0]), { mode: entry[2] ? 0o555 : 0o444 });
	});
}

async function each<T>(items: readonly T[], work: (item: T) => Promise<void>): Promise<void> {
	let next = 0;
	const worker = async () => {
		while (next < items.length) await work(items[next++]!);
	};
	await Promise.all(Array.from({ length: Math.min(FETCHES_AT_A_TIME, items.length) }, worker));
}

function readSlots(layout: Layout, place: Place): Map<number, Slot> {
	try {
		const saved = JSON.parse(readFileSync(join(appDirectory(layout, place), 'slots.json'), 'utf8')) as [number, Omit<Slot, 'users'>][];
		return new Map(saved.map(([number, slot]) => [number, { ...slot, users: 0 }]));
	} catch {
		return new Map(); // the first release here; what lies in a slot is written anew when it is not known
	}
}

function writeSlots(layout: Layout, place: Place, slots: Map<number, Slot>): void {
	const file = join(appDirectory(layout, place), 'slots.json');
	writeFileSync(`${file}.draft`, JSON.stringify([...slots]));
	renameSync(`${file}.draft`, file);
}

function once(work: () => void): () => void {
	let done = false;
	return () => {
		if (!done) work();
		done = true;
	};
}
