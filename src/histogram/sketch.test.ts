import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { RELATIVE_ACCURACY, Sketch } from './sketch.ts';

const latencies = fc.array(fc.double({ min: 0.002, max: 1_000_000, noNaN: true }), { minLength: 1, maxLength: 300 });

function sketchOf(values: readonly number[]): Sketch {
	const sketch = new Sketch();
	for (const value of values) sketch.add(value);
	return sketch;
}

test('an empty sketch has no quantile', () => {
	assert.equal(new Sketch().quantile(0.5), null);
	assert.equal(new Sketch().count, 0);
	assert.deepEqual(new Sketch().toRecord(), {});
});

test('every quantile is within 1 % of the true one', () => {
	fc.assert(
		fc.property(latencies, fc.double({ min: 0, max: 1, noNaN: true }), (values, q) => {
			const sorted = values.toSorted((a, b) => a - b);
			const exact = sorted[Math.floor(q * (sorted.length - 1))] as number;
			const estimate = sketchOf(values).quantile(q) as number;
			assert.ok(Math.abs(estimate - exact) <= exact * (RELATIVE_ACCURACY + 1e-9), `${estimate} for ${exact}`);
		}),
	);
});

test('merging equals having seen everything, in any order', () => {
	fc.assert(
		fc.property(latencies, latencies, (a, b) => {
			const ab = sketchOf(a);
			ab.merge(sketchOf(b));
			const ba = sketchOf(b);
			ba.merge(sketchOf(a));
			const whole = sketchOf([...a, ...b]);
			assert.deepEqual(ab.toRecord(), { ...whole.toRecord() });
			assert.deepEqual(new Map(Object.entries(ba.toRecord())).size, new Map(Object.entries(whole.toRecord())).size);
			assert.equal(ba.quantile(0.99), whole.quantile(0.99));
			assert.equal(ab.count, a.length + b.length);
		}),
	);
});

test('the record is read back as the same sketch, through JSON', () => {
	fc.assert(
		fc.property(latencies, (values) => {
			const sketch = sketchOf(values);
			const back = Sketch.fromRecord(JSON.parse(JSON.stringify(sketch.toRecord())) as Record<string, number>);
			assert.deepEqual(back.toRecord(), sketch.toRecord());
			assert.equal(back.count, sketch.count);
			assert.equal(back.quantile(0.5), sketch.quantile(0.5));
		}),
	);
});

test('values beyond the range count at its ends and add no bucket', () => {
	const sketch = sketchOf([0, -1, Number.NaN, 1e-9, 1e300, Number.POSITIVE_INFINITY]);
	assert.equal(sketch.count, 6);
	assert.equal(Object.keys(sketch.toRecord()).length, 2);
	assert.ok((sketch.quantile(0) as number) <= 0.0011);
	assert.ok((sketch.quantile(1) as number) >= 9_800_000);
});

test('a record that no sketch wrote is refused', () => {
	for (const record of [{ '1.5': 1 }, { x: 1 }, { '1': -1 }, { '1': 0.5 }, { '99999': 1 }, { '01': 1 }, { '': 1 }]) {
		assert.throws(() => Sketch.fromRecord(record as unknown as Record<string, number>), RangeError);
	}
});
