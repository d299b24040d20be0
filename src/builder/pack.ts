import { copyFileSync, constants, existsSync, lstatSync, mkdirSync, readFileSync, realpathSync, rmSync, statSync, symlinkSync, chmodSync } from 'node:fs'; // prettier-ignore
import { dirname, join } from 'node:path';
import { sha256, type Digest } from '#digest/digest.ts';
import { checkPath, manifestOf, treeOf, type Entry } from '#store/manifest.ts';
import type { AppConfig } from '#wire/config.ts';
import type { Made } from './bring.ts';
import { confine } from './checkout.ts';
import { BuildFault } from './fault.ts';
import type { OutputFile } from './sandbox/sandbox.ts';

/** What is no graph of modules: an artifact is the files of the source that are shipped, and what the steps made. */
export interface Packing {
	checkout: string;
	directory: string;
	config: AppConfig;
	outputs: readonly OutputFile[];
}

const MODE = { file: 0o644, executable: 0o755 };
const MAX_FILES = 200_000;
const MAX_BYTES = 2 * 1024 * 1024 * 1024;

/** Into the source, as if it had been committed; the next check-out takes it away again. */
export function layOutputs(outputs: readonly OutputFile[], checkout: string): void {
	for (const { path, at, target, executable } of outputs) {
		const to = join(checkout, path);
		mkdirSync(dirname(to), { recursive: true });
		if (lstatSync(to, { throwIfNoEntry: false })) rmSync(to, { recursive: true, force: true });
		if (target !== null) symlinkSync(target, to);
		else {
			copyFileSync(at, to, constants.COPYFILE_FICLONE);
			chmodSync(to, executable ? MODE.executable : MODE.file);
		}
	}
	if (outputs.length > 0) confine(checkout);
}

/** @throws BuildFault */
export async function packFiles({ checkout, directory, config, outputs }: Packing): Promise<Made> {
	const { scan } = await import('#build/scan.ts');
	const { isShipped } = await import('#build/files.ts');
	const { globs } = await import('#build/ignore.ts');
	layOutputs(outputs, checkout);
	const root = join(checkout, directory);
	const [include, exclude] = [globs(config.include), globs(config.exclude)];
	const prefix = directory === '' ? '' : `${directory}/`;
	const written = outputs.filter(({ path }) => path.startsWith(prefix)).map(({ path }) => path.slice(prefix.length));
	const found = [...scan([{ dir: root, prefix: '' }], include).files.keys()].filter((path) => isShipped(path, include, exclude));
	const folder = config.runtime === 'static' ? (config.dir ?? '.').replace(/^\.\/?|\/$/g, '') : '';
	const wanted = [...new Set([...found, ...written])].filter((path) => folder === '' || path.startsWith(`${folder}/`)).sort();
	if (wanted.length === 0)
		throw new BuildFault(
			'empty',
			`there is nothing to ship${folder === '' ? '' : ` in ${folder}`}`,
			'look at "dir", "exclude" and .gitignore',
		);
	if (wanted.length > MAX_FILES)
		throw new BuildFault('too_large', `an artifact may have ${MAX_FILES} files, this one has ${wanted.length}`, null);
	return madeOf(wanted, root, realpathSync.native(checkout));
}

function madeOf(paths: readonly string[], root: string, checkout: string): Made {
	const entries = new Map<string, Entry>();
	const places = new Map<Digest, string>();
	let bytes = 0;
	for (const path of paths) {
		const disk = join(root, path);
		if (!existsSync(disk) || !realpathSync.native(disk).startsWith(`${checkout}/`) || !statSync(disk).isFile()) continue;
		checkPath(path);
		const stat = statSync(disk);
		bytes += stat.size;
		if (bytes > MAX_BYTES) throw new BuildFault('too_large', `an artifact may have ${MAX_BYTES} bytes`, null);
		const digest = sha256(readFileSync(disk));
		entries.set(`files/${path}`, [digest, stat.size, (stat.mode & 0o111) !== 0]);
		places.set(digest, disk);
	}
	const manifest = manifestOf(entries);
	const whole = { base: null, set: Object.fromEntries(manifest), delete: [] };
	const blob = (digest: Digest) => readFileSync(places.get(digest)!);
	return {
		artifact: treeOf(manifest).root,
		manifest,
		delta: whole,
		whole,
		// Nothing is remembered of what control has: it is asked.
		newBlobs: new Map(),
		blob,
		vendor: null,
		modules: { compiled: 0, cached: 0 },
		markAccepted: () => {},
	};
}
