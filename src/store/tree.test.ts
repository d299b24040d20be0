import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { sha256 } from '#digest/digest.ts';
import { applyDelta, diffManifests, manifestOf, treeOf, type Entry, type Manifest } from './manifest.ts';
import { decodeNodes, diffTrees, encodeNodes, entriesOf, nodesOf, reachable, updateTree } from './tree.ts';

const path = fc.array(fc.constantFrom('a', 'b', 'src', 'lib', 'x.ts', 'é'), { minLength: 1, maxLength: 3 });
const manifest: fc.Arbitrary<Manifest> = fc
	.array(fc.tuple(path, fc.string({ maxLength: 3 })), { maxLength: 20 })
	.map((files) =>
		manifestOf(new Map<string, Entry>(files.map(([names, text]) => [`${names.join('/')}.f`, [sha256(text), text.length, false]]))),
	);

test('changing a tree by its nodes gives the root of the whole rebuilt', () => {
	fc.assert(
		fc.property(manifest, manifest, (from, to) => {
			const { root, nodes } = { root: treeOf(from).root, nodes: nodesOf(treeOf(from)) };
			const delta = diffManifests(from, to);
			const changes = new Map<string, Entry | null>(Object.entries(delta.set));
			for (const gone of delta.delete) changes.set(gone, null);
			const next = updateTree(root, nodes, changes);
			assert.equal(next, treeOf(to).root);
			assert.deepEqual(reachable(next, nodes), nodesOf(treeOf(to)));
			assert.deepEqual([...manifestOf(entriesOf(next, nodes))], [...to]);
		}),
		{ numRuns: 80 },
	);
});

test('comparing two trees by their nodes gives a delta that leads from one to the other', () => {
	fc.assert(
		fc.property(manifest, manifest, (from, to) => {
			const a = { root: treeOf(from).root, nodes: decodeNodes(encodeNodes(nodesOf(treeOf(from)))) };
			const b = { root: treeOf(to).root, nodes: nodesOf(treeOf(to)) };
			assert.equal(treeOf(applyDelta(from, diffTrees(a, b))).root, b.root);
		}),
		{ numRuns: 80 },
	);
});

test('a list of nodes that was cut short is refused', () => {
	const text = encodeNodes(nodesOf(treeOf(manifestOf([['a', [sha256('a'), 1, false]]]))));
	assert.throws(() => decodeNodes(text.slice(0, -1)), { code: 'bad_tree' });
});
