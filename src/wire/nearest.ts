/** The word of `known` nearest to `word` by edits, when it is near enough to be what was meant. What begins with it is as good as one edit away. */
export function nearest(word: string, known: Iterable<string>): string | null {
	const lower = word.toLowerCase();
	let best: string | null = null;
	let least = Math.max(2, Math.ceil(word.length / 3)) + 1;
	for (const candidate of known) {
		const other = candidate.toLowerCase();
		const edits = other !== lower && other.startsWith(lower) && word.length > 1 ? 1 : editDistance(lower, other);
		if (edits < least) {
			least = edits;
			best = candidate;
		}
	}
	return best;
}

function editDistance(a: string, b: string): number {
	let row = Array.from({ length: b.length + 1 }, (_, j) => j);
	for (let i = 1; i <= a.length; i++) {
		const next = [i];
		for (let j = 1; j <= b.length; j++) {
			const change = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
			next.push(Math.min((row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1, change));
		}
		row = next;
	}
	return row[b.length] ?? 0;
}
