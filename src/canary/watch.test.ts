import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { binomialTail, harmOf, shownHarmless, UNHEALTHY_FOR_MS, type Counts, type WatchedInstance } from './watch.ts';

const WATCH_MS = 300_000;
const well: WatchedInstance = { healthy: true, failed: false, restarts: 0, badSince: null };

function errorsHarm(next: Counts, current: Counts): boolean {
	return harmOf({ next, current, instances: [well], watchMs: WATCH_MS }, 0)?.reason === 'errors';
}

test('a release that fails every request is found within ten of them, with or without a history of the current one', () => {
	assert.ok(errorsHarm({ requests: 10, errors: 10 }, { requests: 0, errors: 0 }));
	assert.ok(errorsHarm({ requests: 6, errors: 6 }, { requests: 1000, errors: 0 }));
});

test('fewer than five errors are no harm, however few requests there were', () => {
	assert.ok(!errorsHarm({ requests: 4, errors: 4 }, { requests: 100_000, errors: 0 }));
});

test('the same rate as before is no harm, nor is a rate not surely above twice the old one', () => {
	assert.ok(!errorsHarm({ requests: 1000, errors: 50 }, { requests: 1000, errors: 50 }));
	assert.ok(!errorsHarm({ requests: 1000, errors: 110 }, { requests: 1000, errors: 50 }));
	assert.ok(!errorsHarm({ requests: 1_000_000, errors: 6 }, { requests: 1_000_000, errors: 0 }));
	assert.ok(errorsHarm({ requests: 1000, errors: 250 }, { requests: 1000, errors: 50 }));
});

test('a crash loop is harm, four restarts are not', () => {
	const of = (restarts: number) => harmOf(evidence([{ ...well, restarts }]), 0);
	assert.equal(of(4), null);
	assert.deepEqual(of(5), { reason: 'crash_loop', detail: '1 of 1 instances keep crashing (5 restarts in a minute)' });
});

test('instances that stay unhealthy are harm once there are enough of them for long enough', () => {
	const bad: WatchedInstance = { healthy: false, failed: false, restarts: 0, badSince: 1000 };
	assert.equal(harmOf(evidence([bad]), 1000 + UNHEALTHY_FOR_MS - 1), null);
	assert.equal(harmOf(evidence([bad]), 1000 + UNHEALTHY_FOR_MS)?.reason, 'unhealthy');
	assert.equal(harmOf(evidence([bad, well, well, well, well]), 60_000), null);
	assert.equal(harmOf(evidence([bad, bad, well, well, well]), 60_000)?.reason, 'unhealthy');
});

test('no traffic and no instances are no evidence of harm', () => {
	assert.equal(harmOf(evidence([]), 60_000), null);
});

test('looking each second for five minutes raises few false alarms when nothing changed', () => {
	let alarms = 0;
	for (let run = 0; run < 400; run++) {
		const random = generator(run);
		const next = { requests: 0, errors: 0 };
		const current = { requests: 0, errors: 0 };
		for (let second = 0; second < 600; second++) {
			const counts = second < 300 ? current : next;
			for (let i = 0; i < 20; i++) {
				counts.requests++;
				if (random() < 0.02) counts.errors++;
			}
			if (second >= 300 && errorsHarm(next, current)) {
				alarms++;
				break;
			}
		}
	}
	assert.ok(alarms <= 1, `${alarms} alarms in 400 runs`);
});

test('property: the tail of a binomial agrees with the sum of its terms', () => {
	fc.assert(
		fc.property(fc.integer({ min: 1, max: 60 }), fc.double({ min: 0.01, max: 0.99, noNaN: true }), fc.nat(60), (n, p, k) => {
			const from = Math.min(k, n);
			let sum = 0;
			for (let i = from; i <= n; i++) sum += choose(n, i) * p ** i * (1 - p) ** (n - i);
			assert.ok(Math.abs(binomialTail(n, p, from) - sum) < 1e-7);
		}),
	);
});

test('harmless is shown by enough requests without errors, and never by none', () => {
	const shown = (next: Counts, current: Counts) => shownHarmless({ next, current, instances: [], watchMs: WATCH_MS });
	const clean = { requests: 1000, errors: 0 };
	assert.equal(shown({ requests: 0, errors: 0 }, clean), false);
	assert.equal(shown({ requests: 58, errors: 0 }, clean), false, 'at 5 % that would still happen once in 19 times');
	assert.equal(shown({ requests: 59, errors: 0 }, clean), true);
	assert.equal(shown({ requests: 59, errors: 1 }, clean), false);
	assert.equal(shown({ requests: 1000, errors: 20 }, clean), true);
	assert.equal(shown({ requests: 1000, errors: 60 }, clean), false);
	assert.equal(shown({ requests: 1000, errors: 60 }, { requests: 1000, errors: 50 }), true, 'what serves is no better');
});

function evidence(instances: WatchedInstance[]) {
	return { next: { requests: 0, errors: 0 }, current: { requests: 0, errors: 0 }, instances, watchMs: WATCH_MS };
}

function choose(n: number, k: number): number {
	let product = 1;
	for (let i = 1; i <= k; i++) product *= (n - k + i) / i;
	return product;
}

/** mulberry32: small, seeded, good enough for counting alarms. */
function generator(seed: number): () => number {
	let state = seed + 1;
	return () => {
		state = (state + 0x6d2b79f5) | 0;
		let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
		mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
		return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
	};
}
