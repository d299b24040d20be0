/** Does the work for each item, so many at once. */
export async function eachOf<T>(items: readonly T[], atOnce: number, work: (item: T) => Promise<void>): Promise<void> {
	let next = 0;
	const worker = async () => {
		for (let i = next++; i < items.length; i = next++) await work(items[i]!);
	};
	await Promise.all(Array.from({ length: Math.min(atOnce, items.length) }, worker));
}
