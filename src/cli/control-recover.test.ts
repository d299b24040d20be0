import assert from 'node:assert/strict';
import { test } from 'node:test';
import { openStage } from './fixture.ts';

const app = (name: string, readOnly: string | null) => ({ app: name, readOnly, createdAt: 1, environments: [] });
const WHY = 'fra has seen version 1.9 of notes (production), which the database does not know';

test('what can be recovered is told with its reason, and nothing is done unasked', async (t) => {
	const stage = await openStage(t, { 'GET /api/v1/apps': { apps: [app('notes', WHY), app('shop', null)] } });
	const told = await stage.jibe('control', 'recover');
	assert.equal(told.exit, 2);
	assert.match(told.err, /1 app can be recovered:\n {2}notes: fra has seen version 1\.9/);
	assert.match(told.err, /jibe control recover APP, or --all/);
	assert.equal(stage.asked.length, 1);
});

test('one app, or all that are read-only; whose word holds goes along', async (t) => {
	const stage = await openStage(t, {
		'GET /api/v1/apps': { apps: [app('notes', WHY), app('shop', null), app('mail', WHY)] },
		'POST /api/v1/apps/notes/recoveries': { epoch: 4 },
		'POST /api/v1/apps/mail/recoveries': { epoch: 5 },
	});
	const posts = () => stage.asked.map(({ what }) => what).filter((what) => what.startsWith('POST'));
	const one = await stage.jibe('control', 'recover', 'notes', '--take', 'database', '--json');
	assert.deepEqual([one.exit, one.json['take']], [0, 'database']);
	assert.deepEqual(posts(), ['POST /api/v1/apps/notes/recoveries?take=database']);
	const all = await stage.jibe('control', 'recover', '--all');
	assert.match(all.out, /Recovered notes[^]*epoch 4; what the regions serve holds[^]*Recovered mail/);
	assert.deepEqual(posts().slice(1), ['POST /api/v1/apps/notes/recoveries?take=regions', 'POST /api/v1/apps/mail/recoveries?take=regions']);
	assert.equal((await stage.jibe('control', 'recover', 'notes', '--take', 'mine')).exit, 2);
});

test('when nothing is read-only that is said', async (t) => {
	const stage = await openStage(t, { 'GET /api/v1/apps': { apps: [app('shop', null)] } });
	const told = await stage.jibe('control', 'recover');
	assert.equal(told.exit, 0);
	assert.match(told.out, /Nothing to recover/);
});
