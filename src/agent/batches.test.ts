import assert from 'node:assert/strict';
import { test } from 'node:test';
import { inBatches } from './batches.ts';

test('keys asked within a turn are one question; what its answer leaves out is asked again', async () => {
	const questions: string[][] = [];
	const ask = inBatches<string, string>({
		one: async (key) => (questions.push([key]), `${key} alone`),
		async many(keys) {
			questions.push([...keys]);
			return new Map(keys.slice(0, 2).map((key) => [key, `${key} together`]));
		},
		most: 4,
	});
	const answers = await Promise.all(['a', 'b', 'c', 'd', 'e', 'a'].map((key) => ask(key)));
	assert.deepEqual(answers.map((text) => text[0]), ['a', 'b', 'c', 'd', 'e', 'a']); // prettier-ignore
	assert.deepEqual(questions[0], ['a', 'b', 'c', 'd']);
	assert.equal(questions.length, 3);
});

test('a question for many that fails, or gives nothing, is asked for each: one reason does not hit the others', async () => {
	for (const many of [async () => Promise.reject(new Error('one of them is missing')), async () => new Map<string, string>()]) {
		const ask = inBatches<string, string>({
			one: async (key) => (key === 'b' ? Promise.reject(new Error('b is missing')) : key),
			many,
			most: 10,
		});
		const [a, b, c] = await Promise.allSettled(['a', 'b', 'c'].map((key) => ask(key)));
		assert.deepEqual([a, c], [{ status: 'fulfilled', value: 'a' }, { status: 'fulfilled', value: 'c' }]); // prettier-ignore
		assert.match(String(b?.status === 'rejected' && b.reason), /b is missing/);
	}
});
