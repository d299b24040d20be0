import { closeSync, openSync, readFileSync, readSync, statSync, type BigIntStats } from 'node:fs';
import { createHash } from 'node:crypto';
import { sha256, type Digest } from '#digest/digest.ts';
import type { Entry } from '#store/manifest.ts';
import { BuildError } from './build-error.ts';
import type { IgnoreRules } from './ignore.ts';
import { isTest } from './link.ts';
import { STAT_WORDS } from './state.ts';

/** Which files go into an artifact as they are, and how files are told from their former selves. */

/** Above this a file is hashed in pieces. */
const WHOLE_READ_BYTES = 32 * 1024 * 1024;
const PIECE_BYTES = 4 * 1024 * 1024;
/** Kernels stamp files with a clock that ticks this coarsely; younger stamps than that may hide a change. */
export const STAMP_GRANULARITY_MS = 20;
const STAMP_GRANULARITY_NS = BigInt(STAMP_GRANULARITY_MS) * 1_000_000n;

const NEVER_FILES =
	/(?:^|\/)(?:\.git[^/]*|\.npmrc|\.yarnrc(?:\.yml)?|\.DS_Store|\.dockerignore|Thumbs\.db)$|^(?:jibe\.json|package-lock\.json|npm-shrinkwrap\.json|pnpm-lock\.yaml|pnpm-workspace\.yaml|yarn\.lock|tsconfig[^/]*\.json)$|^\.(?:vscode|idea|github|husky|yarn)\//;

/**
 * Whether a file that is no module of the graph is shipped. TypeScript that nothing reaches is not (types, scripts,
 * tests), unless `include` names it; JavaScript may be served or loaded by a computed path, so it is.
 */
export function isShipped(path: string, include: IgnoreRules, exclude: IgnoreRules): boolean {
	if (exclude.covers(path)) return false;
	if (include.covers(path)) return true;
	if (NEVER_FILES.test(path) || isTest(path) || path.endsWith('.tsbuildinfo')) return false;
	return !/\.(?:[cm]?ts|tsx|jsx)$/.test(path);
}

export function contentOf(disk: string, size: number): Digest {
	return size <= WHOLE_READ_BYTES ? sha256(readFileSync(disk)) : hashInPieces(disk);
}

function hashInPieces(disk: string): Digest {
	const hash = createHash('sha256');
	const file = openSync(disk, 'r');
	try {
		const piece = Buffer.allocUnsafe(PIECE_BYTES);
		for (let read = readSync(file, piece); read > 0; read = readSync(file, piece)) hash.update(piece.subarray(0, read));
	} finally {
		closeSync(file);
	}
	return `sha256:${hash.digest('hex')}`;
}

export function fileEntry(digest: Digest, stat: BigIntStats): Entry {
	return [digest, Number(stat.size), (stat.mode & 0o111n) !== 0n];
}

export function statOf(disk: string): BigIntStats {
	const stat = statSync(disk, { bigint: true, throwIfNoEntry: false });
	if (!stat) throw new BuildError('changed_meanwhile', `${disk} disappeared while it was being read`, { hint: 'Deploy again.' });
	return stat;
}

export function writeStat(stats: BigInt64Array, row: number, stat: BigIntStats): void {
	const at = row * STAT_WORDS;
	stats[at] = stat.size;
	stats[at + 1] = stat.mtimeNs;
	// Without ctime a restored mtime (tar, rsync -t) would hide a change.
	stats[at + 2] = stat.ctimeNs;
	stats[at + 3] = stat.ino;
}

export function sameStat(stats: BigInt64Array, row: number, stat: BigIntStats): boolean {
	const at = row * STAT_WORDS;
	return stats[at] === stat.size && stats[at + 1] === stat.mtimeNs && stats[at + 2] === stat.ctimeNs && stats[at + 3] === stat.ino;
}

/** Stamped so late that a change after the scan could look the same. */
export function isRacy(stats: BigInt64Array, row: number, startedNs: bigint): boolean {
	const at = row * STAT_WORDS;
	const newest = startedNs - STAMP_GRANULARITY_NS;
	return stats[at + 1]! >= newest || stats[at + 2]! >= newest;
}
