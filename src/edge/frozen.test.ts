import assert from 'node:assert/strict';
import { once } from 'node:events';
import { renameSync } from 'node:fs';
import { test } from 'node:test';
import { EJECT_AFTER_FAILURES } from './upstream.ts';
import { ask, openStage, reportOf, serving, specOf, startInstance, wantOf, wantsOf } from './fixture.ts';

test('what waits in an instance that is said to be frozen is asked elsewhere, or refused at once where that is not safe', async (t) => {
	const stage = await serving(t, () => {});
	const { server } = stage.instance;
	const arrived = [once(server, 'request'), once(server, 'request')];
	const get = ask(stage.port);
	await arrived[0];
	const second = once(server, 'request');
	const post = ask(stage.port, { method: 'POST', body: 'once' });
	await second;
	const next = await startInstance(t, 2, (_req, res) => res.end('two'));
	stage.tell(reportOf(stage.instance.as('serving'), next.as('serving')));
	stage.tell(wantsOf(wantOf(2, 2, { run: [{ release: 2, instances: 1, as: 'serving' }, { release: 1, instances: 1, as: 'warm' }] }), specOf(2))); // prettier-ignore
	stage.tell(reportOf(stage.instance.as('warm'), next.as('serving')));
	assert.equal((await get).body, 'two');
	assert.equal((await post).status, 502);
});

test('an edge that still knows a frozen instance as serving asks it in vain, and holds the request until it hears more', async (t) => {
	const stage = await openStage(t);
	const gone = await startInstance(t, 1, (_req, res) => res.end('one'));
	await gone.stop(); // as a frozen one, whose socket has no name
	stage.tell(reportOf(gone.as('serving')));
	stage.tell(wantsOf(wantOf(1, 1), specOf(1)));
	const held = ask(stage.port, { method: 'POST', body: 'held' });
	const next = await startInstance(t, 2, (_req, res) => res.end('two'));
	stage.tell(wantsOf(wantOf(2, 2), specOf(2)));
	stage.tell(reportOf(gone.as('warm'), next.as('serving')));
	assert.equal((await held).body, 'two');
});

test('thawed, it is asked again at once whatever was held against it', async (t) => {
	const stage = await serving(t, (_req, res) => res.end('one'));
	const { instance } = stage;
	renameSync(instance.path, `${instance.path}.shut`);
	const held = Array.from({ length: EJECT_AFTER_FAILURES }, () => ask(stage.port, { method: 'POST', body: 'held' }));
	await once(stage.front, 'request');
	stage.tell(reportOf(instance.as('warm')));
	renameSync(`${instance.path}.shut`, instance.path);
	stage.tell(reportOf(instance.as('serving')));
	assert.deepEqual(new Set((await Promise.all(held)).map(({ body }) => body)), new Set(['one']));
});
