import assert from 'node:assert/strict';
import { test } from 'node:test';
import { notesApp } from './fixtures/app.ts';
import { startJibe } from './fixtures/jibe.ts';

const HOST = 'notes.localhost';

test('notes goes live in three regions, is edited, deployed again, and rolled back', async () => {
	await using jibe = await startJibe({ regions: 3 });
	using app = notesApp();

	const first = await jibe.expect(0, ['deploy', '--json'], { cwd: app.dir });
	assert.equal(first.json?.['state'], 'Deployed');
	assert.equal(first.json['kind'], 'deploy');
	assert.equal((first.json['modules'] as { cached: number }).cached, 0);
	assert.deepEqual(
		(first.json['regions'] as { state: string }[]).map(({ state }) => state),
		['live', 'live', 'live'],
	);
	const before = await homes(3);
	assert.deepEqual(
		before.map(({ greeting }) => greeting),
		['Notes, kept well.', 'Notes, kept well.', 'Notes, kept well.'],
	);
	assert.equal(new Set(before.map(({ region }) => region)).size, 3);
	const made = await jibe.request(0, HOST, '/notes', { method: 'POST', body: JSON.stringify({ title: 'survives' }) });
	assert.equal(made.status, 201);

	app.edit('src/routes/home.ts', 'Notes, kept well.', 'Notes, kept better.');
	const second = await jibe.expect(0, ['deploy', '--json'], { cwd: app.dir });
	assert.equal(second.json?.['state'], 'Deployed');
	assert.equal((second.json['modules'] as { compiled: number }).compiled, 1);
	assert.notEqual(second.json['release'], first.json['release']);
	assert.deepEqual(
		(await homes(3)).map(({ greeting }) => greeting),
		['Notes, kept better.', 'Notes, kept better.', 'Notes, kept better.'],
	);
	assert.equal((await jibe.request(0, HOST, `/notes/${Number(made.json?.['id'])}`)).json?.['title'], 'survives');

	const back = await jibe.expect(0, ['rollback', '--json'], { cwd: app.dir });
	assert.equal(back.json?.['kind'], 'rollback');
	assert.equal(back.json['release'], first.json['release']);
	assert.deepEqual(
		(await homes(3)).map(({ greeting }) => greeting),
		['Notes, kept well.', 'Notes, kept well.', 'Notes, kept well.'],
	);
	assert.equal((await jibe.request(0, HOST, `/notes/${Number(made.json?.['id'])}`)).json?.['title'], 'survives');

	async function homes(regions: number): Promise<Record<string, unknown>[]> {
		const answers = await Promise.all(Array.from({ length: regions }, (_, region) => jibe.request(region, HOST, '/')));
		return answers.map((answer) => {
			assert.equal(answer.status, 200, answer.body);
			return answer.json!;
		});
	}
});
