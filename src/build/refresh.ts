import { readFileSync, statSync, type BigIntStats } from 'node:fs';
import { join } from 'node:path';
import { systemClock } from '#clock/clock.ts';
import { sha256, type Digest } from '#digest/digest.ts';
import type { Entry } from '#store/manifest.ts';
import { decodeNodes, encodeNodes, reachable, updateTree, type Nodes } from '#store/tree.ts';
import { checkEntry } from './entry.ts';
import { contentOf, fileEntry, isRacy, sameStat, writeStat } from './files.ts';
import { isSource } from './link.ts';
import type { Outcome } from './result.ts';
import { listed } from './scan.ts';
import { checkData, signatureOf, type Session } from './session.ts';
import { KIND, SIGNATURE_BYTES, type StateTable } from './state.ts';

/**
 * The build that happens all day: the same files as before, some with new content, none linking otherwise. It looks at
 * every file's stat, compiles what changed, and rewrites the tree above it.
 */

type Old = StateTable & { factsBytes: Buffer };

/** null: something changed that only a whole build can judge. */
export function refresh(session: Session, old: Old): Outcome | null {
	const disk = diskOf(old);
	const seen = look(old, disk);
	if (!seen) return null;
	const scanMs = systemClock.monotonic() - session.startedMs;
	const changes = new Map<string, Entry | null>();
	for (const { row, content, stat } of seen.changed) {
		if (!change(session, old, { row, content, stat }, disk, changes)) return null;
	}
	let { root } = old.meta;
	let nodes: Nodes | undefined;
	if (changes.size > 0) {
		nodes = decodeNodes(old.nodes.toString());
		root = updateTree(root, nodes, changes);
		nodes = reachable(root, nodes);
	}
	let { warnings } = old.meta;
	if (seen.touched) {
		const meta = { ...old.meta, root };
		const failed = session.save({
			...old,
			startedNs: session.startedNs,
			meta,
			nodes: nodes ? encodeNodes(nodes) : old.nodes,
			facts: old.factsBytes,
		});
		if (failed !== null) warnings = [...warnings, failed];
	}
	return {
		root,
		entry: session.settings.entry,
		nodes: () => (nodes ??= decodeNodes(old.nodes.toString())),
		options: old.meta.options,
		modules: { compiled: session.compiled.size, cached: old.meta.modules - session.compiled.size },
		timings: { scanMs, compileMs: systemClock.monotonic() - session.startedMs - scanMs },
		warnings,
		vendorKey: old.meta.vendorKey,
		vendorRoot: old.meta.vendorRoot,
		disk,
	};
}

function diskOf(old: Old): (path: string) => string {
	const [own, ...others] = old.meta.roots;
	return (path) => {
		const other = others.length === 0 ? undefined : others.find(({ prefix }) => path.startsWith(prefix));
		return other ? join(other.dir, path.slice(other.prefix.length)) : `${own!.dir}/${path}`;
	};
}

interface Changed {
	row: number;
	content: Digest;
	stat: BigIntStats;
}

/** Compares every entry with what it was. Updates the table's stats on the way. */
function look(old: Old, disk: (path: string) => string): { changed: Changed[]; touched: boolean } | null {
	const { stats, kinds, paths, startedNs } = old;
	const changed: Changed[] = [];
	let touched = false;
	for (let row = 0; row < paths.length; row++) {
		const path = paths[row]!;
		const kind = kinds[row]!;
		const place = kind === KIND.special ? path : disk(path);
		const stat = statSync(place, { bigint: true, throwIfNoEntry: false });
		if (!stat) return null;
		if (sameStat(stats, row, stat) && !isRacy(stats, row, startedNs)) continue;
		touched = true;
		const content = kind === KIND.folder || stat.isDirectory() ? listed(place) : contentOf(place, Number(stat.size));
		const same = old.contents.toString('hex', row * 32, row * 32 + 32) === content.slice(7);
		if (!same && (kind === KIND.folder || kind === KIND.special)) return null;
		writeStat(stats, row, stat);
		// A file's mode may have changed without its content.
		if (!same || kind === KIND.file || kind === KIND.both) changed.push({ row, content, stat });
	}
	return { changed, touched };
}

/** What one changed file does to the artifact; false: it links otherwise now. */
function change(
	session: Session,
	old: Old,
	{ row, content, stat }: Changed,
	disk: (path: string) => string,
	changes: Map<string, Entry | null>,
): boolean {
	const path = old.paths[row]!;
	const kind = old.kinds[row]!;
	const same = old.contents.toString('hex', row * 32, row * 32 + 32) === content.slice(7);
	old.contents.write(content.slice(7), row * 32, 'hex');
	if (kind === KIND.file || kind === KIND.both) changes.set(`files/${path}`, fileEntry(content, stat));
	if (kind === KIND.file) return true;
	const bytes = () => readFileSync(disk(path));
	if (!isSource(path)) {
		if (!same) {
			checkData(path, bytes);
			session.compiled.add(path);
		}
		changes.set(`modules/${path}`, [content, Number(stat.size), false]);
		return true;
	}
	const source = readFileSync(disk(path));
	if (sha256(source) !== content) return false;
	const output = session.output(path, content, () => source, old.meta.options);
	const signature = signatureOf(output.facts);
	if (signature.compare(old.signatures, row * SIGNATURE_BYTES, (row + 1) * SIGNATURE_BYTES) !== 0) return false;
	if (path === session.settings.entry)
		checkEntry(path, output.facts.esm ? 'module' : 'commonjs', output.facts, output.code.toString(), source.toString());
	changes.set(`modules/${path}`, [output.codeDigest, output.code.length, false]);
	changes.set(`maps/${path}.map`, [output.mapDigest, output.map.length, false]);
	return true;
}
