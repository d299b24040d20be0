import { existsSync, readFileSync, statSync } from 'node:fs';
import { dirname, join, relative, sep } from 'node:path';
import { constants, zstdCompressSync } from 'node:zlib';
import { globs } from '#build/ignore.ts';
import { findLockfile } from '#build/lockfile.ts';
import { scan } from '#build/scan.ts';
import { readTsConfig } from '#build/tsconfig.ts';
import { sha256, type Digest } from '#digest/digest.ts';
import { encodeTar, type TarFile } from '#store/tar.ts';
import { MAX_UPLOAD_BYTES } from '#wire/upload.ts';
import { EXIT, Failure } from '../failure.ts';

/**
 * What a builder needs of a directory: everything that git would not ignore, from the top of the workspace that the app belongs
 * to. The same files give the same bytes.
 */
export interface PackedSource {
	bytes: Buffer;
	digest: Digest;
	files: number;
	/** Of the app in it, '' for its root. */
	directory: string;
	warnings: string[];
}

const ZSTD_LEVEL = 3;
/** As tar, held in memory. */
const MAX_SOURCE_BYTES = 512 * 1024 * 1024;

/** @throws Failure source_too_large */
export function packSource(app: string, include: readonly string[]): PackedSource {
	const root = topOf(app);
	const directory = relative(root, app).split(sep).join('/');
	const whole = scan([{ dir: root, prefix: '' }], globs([]));
	// What .gitignore leaves out and jibe.json takes in.
	const own = include.length === 0 ? null : scan([{ dir: app, prefix: directory === '' ? '' : `${directory}/` }], globs(include));
	const paths = [...new Set([...whole.files.keys(), ...(own?.files.keys() ?? [])])].sort();
	let size = 0;
	const entries = paths.map((path): TarFile => {
		const file = join(root, path);
		const bytes = readFileSync(file);
		size += bytes.length;
		if (size > MAX_SOURCE_BYTES) throw tooLarge(root);
		return { kind: 'file', path, bytes, executable: (statSync(file).mode & 0o111) !== 0 };
	});
	const bytes = zstdCompressSync(Buffer.concat([...encodeTar(entries)]), { params: { [constants.ZSTD_c_compressionLevel]: ZSTD_LEVEL } });
	if (bytes.length > MAX_UPLOAD_BYTES) throw tooLarge(root);
	return { bytes, digest: sha256(bytes), files: entries.length, directory, warnings: whole.warnings };
}

/** The directory of the lockfile, or the one above it whose tsconfig this one extends; never above the repository. */
function topOf(app: string): string {
	const repository = above(app, (at) => existsSync(join(at, '.git')));
	const settings = readTsConfig(app).consulted.filter((file) => !file.includes(`${sep}node_modules${sep}`));
	const needed = [findLockfile(app)?.root ?? app, ...settings.map((file) => dirname(file))];
	const inside = needed.filter((path) => repository === null || path === repository || path.startsWith(repository + sep));
	return inside.reduce(common, app);
}

function above(from: string, isIt: (at: string) => boolean): string | null {
	for (let at = from; ; at = dirname(at)) {
		if (isIt(at)) return at;
		if (at === dirname(at)) return null;
	}
}

function common(a: string, b: string): string {
	return above(a, (at) => b === at || b.startsWith(at === sep ? sep : at + sep)) ?? sep;
}

function tooLarge(root: string): Failure {
	const most = `${MAX_UPLOAD_BYTES / 1024 / 1024} MiB compressed, ${MAX_SOURCE_BYTES / 1024 / 1024} MiB not`;
	return new Failure('source_too_large', EXIT.usage, `the source in ${root} is too large to be sent (${most})`, {
		hint: 'leave out what is not needed with .gitignore, or push the repository and have that built',
	});
}
