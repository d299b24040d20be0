/**
 * Latencies as a DDSketch: buckets whose width grows with the value, so that every quantile is within 1 % of the
 * true one, and two sketches merge by adding counts, in any order. Bounded: at most 1,157 buckets whatever comes.
 */
export class Sketch {
	readonly #buckets = new Map<number, number>();
	#count = 0;

	/** The sketch that `toRecord` wrote. @throws RangeError when the record is not one */
	static fromRecord(record: Readonly<Record<string, number>>): Sketch {
		const sketch = new Sketch();
		for (const [key, count] of Object.entries(record)) {
			const index = Number(key);
			if (!Number.isInteger(index) || index < MIN_INDEX || index > MAX_INDEX || String(index) !== key) {
				throw new RangeError(`sketch: bucket ${JSON.stringify(key)} is not an index from ${MIN_INDEX} to ${MAX_INDEX}`);
			}
			if (!Number.isSafeInteger(count) || count < 0) throw new RangeError(`sketch: bucket ${key} counts ${count}`);
			sketch.#addAt(index, count);
		}
		return sketch;
	}

	/** Values in milliseconds; those outside 1 µs … 10,000 s count at the nearest end. */
	add(value: number, count = 1): void {
		this.#addAt(indexOf(value), count);
	}

	merge(other: Sketch): void {
		for (const [index, count] of other.#buckets) this.#addAt(index, count);
	}

	get count(): number {
		return this.#count;
	}

	/** The value below or at which a share `q` (0..1) of all values lies; null while there are none. */
	quantile(q: number): number | null {
		if (this.#count === 0) return null;
		const rank = Math.min(Math.max(q, 0), 1) * (this.#count - 1);
		let seen = 0;
		let last = 0;
		for (const index of [...this.#buckets.keys()].sort((a, b) => a - b)) {
			seen += this.#buckets.get(index) ?? 0;
			last = index;
			if (seen > rank) break;
		}
		return valueOf(last);
	}

	/** Bucket index → count, as it travels in `stats` messages. */
	toRecord(): Record<string, number> {
		return Object.fromEntries(this.#buckets);
	}

	#addAt(index: number, count: number): void {
		if (count === 0) return;
		this.#buckets.set(index, (this.#buckets.get(index) ?? 0) + count);
		this.#count += count;
	}
}

export const RELATIVE_ACCURACY = 0.01;
const MIN_VALUE_MS = 0.001;
const MAX_VALUE_MS = 10_000_000;

// A bucket holds (gamma^(i-1), gamma^i]; the value it stands for is within RELATIVE_ACCURACY of both ends.
const GAMMA = (1 + RELATIVE_ACCURACY) / (1 - RELATIVE_ACCURACY);
const LOG_GAMMA = Math.log(GAMMA);
const MIN_INDEX = Math.ceil(Math.log(MIN_VALUE_MS) / LOG_GAMMA);
const MAX_INDEX = Math.ceil(Math.log(MAX_VALUE_MS) / LOG_GAMMA);

function indexOf(value: number): number {
	if (!(value > MIN_VALUE_MS)) return MIN_INDEX;
	return value >= MAX_VALUE_MS ? MAX_INDEX : Math.ceil(Math.log(value) / LOG_GAMMA);
}

function valueOf(index: number): number {
	return (2 * GAMMA ** index) / (GAMMA + 1);
}
