import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { sha256 } from '#digest/digest.ts';
import { differences, encodeInputs, keyOf, type Input } from './key.ts';

const [A, B] = [sha256('a'), sha256('b')];
const partsOf = (inputs: readonly Input[], change: object = {}) => ({
	format: 1,
	run: 'make',
	env: { MODE: 'fast' },
	needs: { schema: A },
	network: false,
	...change,
	inputs: sha256(encodeInputs(inputs)),
});
const told = (inputs: readonly Input[], change: object = {}) => ({ parts: partsOf(inputs, change), inputs: encodeInputs(inputs) });

test('a key depends on every part, and not on the order of anything', () => {
	const files: Input[] = [{ path: 'a.ts', is: A }, { path: 'b c.ts', is: `${B} x` }]; // prettier-ignore
	const key = keyOf(partsOf(files));
	assert.equal(keyOf(partsOf(files.toReversed())), key);
	assert.equal(keyOf(Object.fromEntries(Object.entries(partsOf(files)).toReversed()) as ReturnType<typeof partsOf>), key);
	for (const change of [{ run: 'make all' }, { env: {} }, { env: { MODE: 'slow' } }, { needs: { schema: B } }, { network: true }]) {
		assert.notEqual(keyOf(partsOf(files, change)), key, JSON.stringify(change));
	}
	assert.notEqual(keyOf(partsOf([files[0]!, { path: 'b c.ts', is: B }])), key, 'it can not be run any more');
	assert.notEqual(keyOf(partsOf([files[0]!, { path: 'c.ts', is: `${B} x` }])), key);
});

test('no two lists of files are written alike', () => {
	const input = fc.record({ path: fc.string({ minLength: 1 }), is: fc.constantFrom(A, `${A} x`, '-> a', '-> a" b') });
	const list = fc.uniqueArray(input, { selector: ({ path }) => path, maxLength: 4 });
	const sorted = (inputs: Input[]) => inputs.map(({ path, is }) => JSON.stringify([path, is])).toSorted((a, b) => (a < b ? -1 : 1));
	fc.assert(
		fc.property(list, list, (one, other) => {
			const same = encodeInputs(one).equals(encodeInputs(other));
			assert.equal(same, JSON.stringify(sorted(one)) === JSON.stringify(sorted(other)));
		}),
	);
});

test('what changed is named: files, variables, steps, commands', () => {
	const before: Input[] = [{ path: 'gone "x".ts', is: A }, { path: 'kept.ts', is: A }, { path: 'src/a.ts', is: A }]; // prettier-ignore
	const now: Input[] = [{ path: 'kept.ts', is: A }, { path: 'new.ts', is: B }, { path: 'src/a.ts', is: `${A} x` }]; // prettier-ignore
	assert.deepEqual(differences(told(before), told(now)), [
		{ part: 'inputs', name: 'gone "x".ts', before: A, now: null },
		{ part: 'inputs', name: 'new.ts', before: null, now: B },
		{ part: 'inputs', name: 'src/a.ts', before: A, now: `${A} x` },
	]);
	assert.deepEqual(differences(told(now), told(now)), []);
	const changed = told(now, { run: 'make all', env: { MODE: 'slow', NEW: '1' }, needs: { schema: B } });
	assert.deepEqual(differences(told(now), changed), [
		{ part: 'run', name: null, before: 'make', now: 'make all' },
		{ part: 'env', name: 'MODE', before: 'fast', now: 'slow' },
		{ part: 'env', name: 'NEW', before: null, now: '1' },
		{ part: 'needs', name: 'schema', before: A, now: B },
	]);
});

test('without the lists of files it is only known that they differ', () => {
	const [before, now] = [told([{ path: 'a', is: A }]), told([{ path: 'a', is: B }])];
	assert.deepEqual(differences({ ...before, inputs: null }, now), [
		{ part: 'inputs', name: null, before: before.parts.inputs, now: now.parts.inputs },
	]);
});
