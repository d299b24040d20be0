import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { hash32 } from './hash.ts';
import { FULL_WEIGHT_BP, SLOTS, slotOf, splitSeed, takesCandidate } from './split.ts';

const seed = splitSeed({ app: 'notes', environment: 'production', candidate: 42 });
const userKey = fc.oneof(fc.string(), fc.ipV4(), fc.uuid());
const weightBp = fc.integer({ min: 0, max: FULL_WEIGHT_BP });

test('a growing weight never sends a user back', () => {
	fc.assert(
		fc.property(userKey, weightBp, weightBp, fc.integer(), (key, a, b, anySeed) => {
			if (takesCandidate(key, anySeed, Math.min(a, b))) assert.ok(takesCandidate(key, anySeed, Math.max(a, b)));
		}),
	);
});

test('weight 0 is nobody, 10,000 is everybody', () => {
	fc.assert(
		fc.property(userKey, fc.integer(), (key, anySeed) => {
			assert.equal(takesCandidate(key, anySeed, 0), false);
			assert.equal(takesCandidate(key, anySeed, FULL_WEIGHT_BP), true);
		}),
	);
});

const populations: Record<string, (i: number) => string> = {
	counters: (i) => String(i),
	addresses: (i) => `10.${(i >> 16) & 255}.${(i >> 8) & 255}.${i & 255}`,
	'mail addresses': (i) => `user${i}@example.com`,
};

for (const [name, keyOf] of Object.entries(populations)) {
	test(`the share is the weight, for ${name}`, () => {
		for (const weight of [100, 500, 2500, 5000, 9900]) {
			let candidates = 0;
			for (let i = 0; i < 20_000; i++) candidates += Number(takesCandidate(keyOf(i), seed, weight));
			const expected = (20_000 * weight) / FULL_WEIGHT_BP;
			const deviation = Math.sqrt((expected * (FULL_WEIGHT_BP - weight)) / FULL_WEIGHT_BP);
			assert.ok(Math.abs(candidates - expected) < 4.5 * deviation, `${candidates} of 20,000 at ${weight}, expected ${expected}`);
		}
	});

	test(`slots are even, and independent of the side, for ${name}`, () => {
		const all = Array.from({ length: SLOTS }, () => 0);
		const canary = Array.from({ length: SLOTS }, () => 0);
		for (let i = 0; i < 64_000; i++) {
			const slot = slotOf(keyOf(i));
			all[slot] = (all[slot] ?? 0) + 1;
			if (takesCandidate(keyOf(i), seed, 1000)) canary[slot] = (canary[slot] ?? 0) + 1;
		}
		// 63 degrees of freedom: 115 is beyond 99.99 %.
		assert.ok(chiSquare(all, 1000) < 115, `all: ${chiSquare(all, 1000)}`);
		assert.ok(chiSquare(canary, 100) < 115, `canary: ${chiSquare(canary, 100)}`);
	});
}

test('another candidate, app or environment tries other users first', () => {
	const others = [
		splitSeed({ app: 'notes', environment: 'production', candidate: 43 }),
		splitSeed({ app: 'shop', environment: 'production', candidate: 42 }),
		splitSeed({ app: 'notes', environment: 'staging', candidate: 42 }),
	];
	for (const other of others) {
		let both = 0;
		for (let i = 0; i < 20_000; i++) both += Number(takesCandidate(`u${i}`, seed, 1000) && takesCandidate(`u${i}`, other, 1000));
		assert.ok(both > 140 && both < 260, `${both} of 20,000 in both, expected 200`);
	}
});

test('the hash is the one it always was: a change would move every user', () => {
	assert.deepEqual(
		['', 'a', '10.0.0.1', 'user@example.com', 'ключ'].map((text) => hash32(text, 7)),
		GOLDEN,
	);
});

const GOLDEN = [4195733450, 3736780160, 2187906761, 1071781271, 910384133];

function chiSquare(counts: readonly number[], expected: number): number {
	return counts.reduce((sum, count) => sum + (count - expected) ** 2 / expected, 0);
}
