import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { createApp } from '../src/app.ts';
import { openNotes } from '../src/notes/store.ts';

function start(t: TestContext, directory = mkdtempSync(join(tmpdir(), 'notes-'))) {
	const store = openNotes(directory);
	const app = createApp(store);
	t.after(() => {
		store.close();
		rmSync(directory, { recursive: true, force: true });
	});
	const send = async (method: string, path: string, body?: unknown) => {
		const response = await app.request(path, { method, body: body === undefined ? undefined : JSON.stringify(body) });
		const text = await response.text();
		return { status: response.status, json: JSON.parse(text || '{}') as Record<string, unknown> };
	};
	return { send, directory };
}

test('a note is written, read, changed and deleted', async (t) => {
	const { send } = start(t);
	const made = await send('POST', '/notes', { title: 'Milk', tags: ['shop'] });
	assert.equal(made.status, 201);
	assert.deepEqual({ ...made.json, changedAt: '' }, { id: 1, title: 'Milk', text: '', tags: ['shop'], changedAt: '' });
	const changed = await send('PATCH', '/notes/1', { text: 'two litres' });
	assert.equal(changed.json['text'], 'two litres');
	assert.equal(changed.json['title'], 'Milk');
	assert.equal((await send('GET', '/notes/1')).json['text'], 'two litres');
	assert.equal((await send('DELETE', '/notes/1')).status, 204);
	assert.equal((await send('GET', '/notes/1')).status, 404);
	assert.equal((await send('PATCH', '/notes/1', {})).status, 404);
});

test('lists come newest first, in pages', async (t) => {
	const { send } = start(t);
	for (const title of ['a', 'b', 'c']) await send('POST', '/notes', { title });
	const titles = (json: Record<string, unknown>) => (json['notes'] as { title: string }[]).map((note) => note.title);
	const first = await send('GET', '/notes?limit=2');
	assert.deepEqual(titles(first.json), ['c', 'b']);
	assert.deepEqual(titles((await send('GET', `/notes?limit=2&before=${Number(first.json['next'])}`)).json), ['a']);
});

test('search finds words as they are, wildcards too', async (t) => {
	const { send } = start(t);
	await send('POST', '/notes', { title: '100% wool' });
	await send('POST', '/notes', { title: '100 sheep' });
	assert.equal(((await send('GET', '/search?q=100%25')).json['notes'] as unknown[]).length, 1);
	assert.equal(((await send('GET', '/search?q=100')).json['notes'] as unknown[]).length, 2);
});

test('what is wrong is told', async (t) => {
	const { send } = start(t);
	assert.equal((await send('POST', '/notes', { title: '' })).status, 400);
	assert.match(String((await send('POST', '/notes', { titel: 'x' })).json['error']), /titel/);
	assert.equal((await send('GET', '/notes/none')).status, 400);
	assert.equal((await send('GET', '/search')).status, 400);
	assert.equal((await send('GET', '/nowhere')).status, 404);
});

test('two releases share one file', async (t) => {
	const before = start(t);
	const after = start(t, before.directory);
	await before.send('POST', '/notes', { title: 'from the old' });
	await after.send('POST', '/notes', { title: 'from the new' });
	assert.deepEqual((await before.send('GET', '/healthz')).json, { ok: true, notes: 2 });
	assert.deepEqual((await after.send('GET', '/healthz')).json, { ok: true, notes: 2 });
});
