/**
 * One question for each key becomes one for many: those that are asked within a turn travel together. What the answer
 * leaves out is asked again with what came up meanwhile; when it gives nothing at all, each is asked for alone and
 * hears its own reason.
 */
export function inBatches<K, V>(of: {
	one(key: K): Promise<V>;
	/** Some of them, in no order. */
	many(keys: readonly K[]): Promise<ReadonlyMap<K, V>>;
	most: number;
}): (key: K) => Promise<V> {
	const waiting = new Map<K, PromiseWithResolvers<V>>();
	let soon: NodeJS.Immediate | null = null;

	function alone([key, { resolve, reject }]: [K, PromiseWithResolvers<V>]): void {
		of.one(key).then(resolve, reject);
	}

	function flush(): void {
		soon = null;
		const batch = [...waiting].slice(0, of.most);
		for (const [key] of batch) waiting.delete(key);
		if (waiting.size > 0) soon = setImmediate(flush);
		if (batch.length === 1) return alone(batch[0]!);
		of.many(batch.map(([key]) => key)).then(
			(got) => {
				const left = batch.filter(([key, { resolve }]) => !got.has(key) || (resolve(got.get(key)!), false));
				if (got.size === 0) return left.forEach(alone);
				for (const [key, asked] of left) {
					const again = waiting.get(key);
					if (again) again.promise.then(asked.resolve, asked.reject);
					else waiting.set(key, asked);
				}
				if (left.length > 0) soon ??= setImmediate(flush);
			},
			() => batch.forEach(alone),
		);
	}

	return (key) => {
		const asked = waiting.get(key) ?? Promise.withResolvers<V>();
		waiting.set(key, asked);
		soon ??= setImmediate(flush);
		return asked.promise;
	};
}
