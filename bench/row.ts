/** One headline number of a bench. Bars are the least that is accepted, goals what is worth going for. */
export interface Row {
	row: string;
	value: number;
	unit: 'ms' | 'bytes' | 'count' | '1/s' | 'MiB' | 'MiB/s' | 'cores';
	bar: number | null;
	goal: number | null;
	/** The same work done by others, in the same run. */
	peers?: Record<string, number>;
}

/** The value below which `share` of them lie. */
export function percentile(values: readonly number[], share: number): number {
	const sorted = values.toSorted((a, b) => a - b);
	const value = sorted[Math.min(sorted.length - 1, Math.ceil(share * sorted.length) - 1)];
	if (value === undefined) throw new Error('no values to take a percentile of');
	return Math.round(value * 10) / 10;
}
