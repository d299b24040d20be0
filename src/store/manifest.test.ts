import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { canonicalJson, sha256, type Digest } from '#digest/digest.ts';
import {
	applyDelta, checkPath, decodeManifest, diffManifests, encodeManifest, manifestOf, MAX_TREE_DEPTH, parseNode, readTree, treeOf, TreeError,
	type Entry, type Manifest,
} from './manifest.ts'; // prettier-ignore

const HELLO: Entry = [sha256('hello'), 5, false];
const TOOL: Entry = [sha256('#!/bin/sh\n'), 10, true];

const name = fc.oneof(
	fc.constantFrom('a', 'b', 'src', 'index.ts', '1', '10', 'ä', '😀', 'ﬀ', 'constructor', 'toString'),
	fc.string({ minLength: 1, maxLength: 8, unit: 'grapheme' }).filter((text) => usable(text)),
);
const entry: fc.Arbitrary<Entry> = fc.oneof(
	fc.tuple(fc.string().map(sha256), fc.nat(10_000), fc.boolean()),
	fc.constantFrom('a', './b', 'x/../y').map((link) => ({ link })),
);
const manifest: fc.Arbitrary<Manifest> = fc
	.array(fc.tuple(fc.array(name, { minLength: 1, maxLength: 4 }), entry), { maxLength: 30 })
	.map((entries) => {
		const kept = new Map<string, Entry>();
		for (const [names, value] of entries) {
			const path = names.join('/');
			const clash = [...kept.keys()].some((other) => other === path || other.startsWith(`${path}/`) || path.startsWith(`${other}/`));
			if (!clash) kept.set(path, value);
		}
		return manifestOf(kept);
	});

function usable(text: string): boolean {
	try {
		checkPath(text);
		return !text.includes('/');
	} catch {
		return false;
	}
}

function reader(nodes: Map<Digest, Buffer>) {
	return async (digest: Digest) => nodes.get(digest) ?? assert.fail(`asked for ${digest}`);
}

test('a manifest survives its Merkle form and back', async () => {
	await fc.assert(
		fc.asyncProperty(manifest, async (files) => {
			const { root, nodes } = treeOf(files);
			assert.deepEqual([...(await readTree(root, reader(nodes)))], [...files]);
		}),
		{ numRuns: 60 },
	);
});

test('a delta between any two manifests leads from one to the other, to the same root', () => {
	fc.assert(
		fc.property(manifest, manifest, (from, to) => {
			const reached = applyDelta(from, diffManifests(from, to));
			assert.deepEqual([...reached], [...to]);
			assert.equal(treeOf(reached).root, treeOf(to).root);
		}),
		{ numRuns: 60 },
	);
});

test('the root depends on content only, never on the order of insertion', () => {
	fc.assert(
		fc.property(manifest, (files) => {
			assert.equal(treeOf(manifestOf([...files].reverse())).root, treeOf(files).root);
			assert.deepEqual([...decodeManifest(encodeManifest(files))], [...files]);
		}),
		{ numRuns: 60 },
	);
});

test('nodes are canonical JSON of a fixed shape with a known digest', () => {
	const { root, nodes } = treeOf(manifestOf([['src/a.ts', HELLO], ['run', TOOL], ['src/b', { link: 'a.ts' }]])); // prettier-ignore
	const src = { d: {}, f: { 'a.ts': HELLO }, l: { b: 'a.ts' } };
	const top = { d: { src: sha256(canonicalJson(src)) }, f: { run: TOOL }, l: {} };
	assert.equal(nodes.get(root)?.toString(), canonicalJson(top));
	assert.equal(root, 'sha256:fbccc9bb49fcda4cbdcec4bc30205a969a59a733696023ceaa2e4bea5fb22551');
	assert.equal(nodes.size, 2);
});

test('paths that could leave the tree, or differ between systems, are refused', () => {
	const bad = [
		'',
		'/etc/passwd',
		'../x',
		'a/../b',
		'a//b',
		'a/',
		'./a',
		'a\0b',
		'a\\b',
		'e\u0301',
		'\ud800',
		'x/__proto__',
		'n'.repeat(256),
	];
	bad.push(Array.from({ length: MAX_TREE_DEPTH + 1 }, () => 'd').join('/'));
	for (const path of bad) assert.throws(() => checkPath(path), { code: 'bad_path' }, path);
	for (const path of ['a', 'é/ü', '...', '.well-known/x', 'a b', 'constructor']) checkPath(path);
	for (const link of ['/etc', '../../x', '', 'a/../../../b']) {
		assert.throws(() => manifestOf([['d/l', { link }]]), { code: 'bad_path' }, link);
	}
	manifestOf([['d/l', { link: '../x' }]]);
});

test('a path that is file and directory at once is refused', () => {
	assert.throws(() => treeOf(manifestOf([['a', HELLO], ['a/b', HELLO]])), { code: 'bad_tree' }); // prettier-ignore
});

test('a delta that deletes what its base does not have is refused', () => {
	assert.throws(() => applyDelta(manifestOf([]), { set: {}, delete: ['a'] }), { code: 'delta_mismatch' });
});

test('more bytes or files than the limit are refused', () => {
	const big: Entry = [sha256('x'), 1024 * 1024 * 1024, false];
	assert.throws(() => manifestOf([['a', big], ['b', big], ['c', HELLO]]), { code: 'tree_too_large' }); // prettier-ignore
});

test('a node that is not canonical, or not a node, is refused', () => {
	const sized = (text: string) => Buffer.from(text);
	const bad = [
		'',
		'[]',
		'null',
		'{"d":{},"f":{}}',
		'{"f":{},"d":{},"l":{}}',
		'{"d":{},"f":{},"l":{} }',
		'{"d":{"a":"sha256:00"},"f":{},"l":{}}',
		'{"d":{},"f":{"a":["x",1,true]},"l":{}}',
		`{"d":{},"f":{"a":["${HELLO[0]}",-1,true]},"l":{}}`,
		`{"d":{},"f":{"a/b":["${HELLO[0]}",1,true]},"l":{}}`,
		`{"d":{},"f":{"a":["${HELLO[0]}",1,true]},"l":{"a":"b"}}`,
	];
	for (const text of bad) assert.throws(() => parseNode(sized(text)), TreeError, text);
});

test('a tree that unfolds without end is stopped by the limits', async () => {
	const nodes = new Map<Digest, Buffer>();
	let child = treeOf(manifestOf([['f', HELLO]])).root;
	nodes.set(child, treeOf(manifestOf([['f', HELLO]])).nodes.get(child)!);
	for (let level = 0; level < 30; level++) {
		const node = Buffer.from(`{"d":{"a":"${child}","b":"${child}"},"f":{},"l":{}}`);
		child = sha256(node);
		nodes.set(child, node);
	}
	await assert.rejects(readTree(child, reader(nodes)), { code: 'tree_too_large' });
});

test('a directory with the name of a hidden parent is refused when read', async () => {
	const inner = treeOf(manifestOf([['f', HELLO]]));
	const node = Buffer.from(`{"d":{"..":"${inner.root}"},"f":{},"l":{}}`);
	const nodes = new Map(inner.nodes).set(sha256(node), node);
	await assert.rejects(readTree(sha256(node), reader(nodes)), { code: 'bad_path' });
});
