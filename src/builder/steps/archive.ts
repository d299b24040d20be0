import { createHash } from 'node:crypto';
import { chmodSync, existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { zstdCompress, zstdDecompress } from 'node:zlib';
import { compareUtf8, sha256, type Digest } from '#digest/digest.ts';
import { encodeTar, readTar, type TarFile, type TarLink } from '#store/tar.ts';
import type { OutputFile } from '../sandbox/sandbox.ts';

/** What a step made, as an archive with one digest, and as a directory that the sandboxes of later steps are laid over with. */
export interface Made {
	files: OutputFile[];
	/** Of the archive's bytes: the same files give the same. Null: it made nothing. */
	digest: Digest | null;
	bytes: number;
	/** The archive, zstd; null where there is none, or it is too large to be kept. */
	packed: Buffer | null;
}

/** Together, of one step: they are held in memory. */
const MAX_KEPT_BYTES = 512 * 1024 * 1024;
/** As sent: what an upload may have, less its header. */
export const MAX_PACKED_BYTES = 60 * 1024 * 1024;
const MAX_ENTRIES = 200_000;
const MODE = { file: 0o644, executable: 0o755 };

const compress = promisify(zstdCompress);
const decompress = promisify(zstdDecompress);

/** Copies what a sandbox holds into `directory`, and packs it. */
export async function pack(found: readonly OutputFile[], directory: string): Promise<Made> {
	mkdirSync(directory, { recursive: true });
	const sorted = found.toSorted((a, b) => compareUtf8(a.path, b.path));
	const bytes = sorted.reduce((sum, file) => sum + file.bytes, 0);
	const hash = createHash('sha256');
	const keep = bytes <= MAX_KEPT_BYTES;
	const parts: Buffer[] = [];
	for (const part of encodeTar(read(sorted, directory))) {
		hash.update(part);
		if (keep) parts.push(part);
	}
	if (sorted.length === 0) return { files: [], digest: null, bytes: 0, packed: null };
	const packed = keep ? await compress(Buffer.concat(parts)) : null;
	return {
		files: sorted.map((file) => ({ ...file, at: join(directory, file.path) })),
		digest: `sha256:${hash.digest('hex')}`,
		bytes,
		packed: packed !== null && packed.length <= MAX_PACKED_BYTES ? packed : null,
	};
}

function* read(files: readonly OutputFile[], directory: string): Generator<TarFile | TarLink> {
	for (const file of files) {
		const entry: TarFile | TarLink =
			file.target === null
				? { kind: 'file', path: file.path, bytes: readFileSync(file.at), executable: file.executable }
				: { kind: 'link', path: file.path, target: file.target };
		place(entry, directory);
		yield entry;
	}
}

/** @throws Damaged when it is not what was packed */
export async function unpack(packed: Buffer, of: { digest: Digest; directory: string }): Promise<OutputFile[]> {
	let tar: Buffer;
	try {
		tar = await decompress(packed, { maxOutputLength: MAX_KEPT_BYTES * 2 });
	} catch (cause) {
		throw new Damaged('it can not be unpacked', { cause });
	}
	if (sha256(tar) !== of.digest) throw new Damaged('it has another digest than what was packed');
	rmSync(of.directory, { recursive: true, force: true });
	mkdirSync(of.directory, { recursive: true });
	const files: OutputFile[] = [];
	for await (const entry of readTar(once(tar), { entries: MAX_ENTRIES, bytes: MAX_KEPT_BYTES })) {
		if (entry.kind === 'directory') continue;
		place(entry, of.directory);
		const at = join(of.directory, entry.path);
		const [target, executable, bytes] = entry.kind === 'link' ? [entry.target, false, 0] : [null, entry.executable, entry.bytes.length];
		files.push({ path: entry.path, at, target, executable, bytes });
	}
	return files;
}

export class Damaged extends Error {}

async function* once(bytes: Buffer): AsyncGenerator<Buffer> {
	yield bytes;
}

function place(entry: TarFile | TarLink, directory: string): void {
	const at = join(directory, entry.path);
	// Entries are sorted, so that a link never comes to lie where a folder of later ones is.
	if (!existsSync(dirname(at))) mkdirSync(dirname(at), { recursive: true });
	if (entry.kind === 'link') return symlinkSync(entry.target, at);
	writeFileSync(at, entry.bytes, { flag: 'wx' });
	chmodSync(at, entry.executable ? MODE.executable : MODE.file);
}
