import assert from 'node:assert/strict';
import { test } from 'node:test';
import { systemClock } from '#clock/clock.ts';
import { issueAccess } from '#wire/access.ts';
import { newSigningKey } from '#wire/credential.ts';
import { ask, openStage, reportOf, serving, specOf, startInstance, wantOf, wantsOf } from './fixture.ts';

test('hosts: any domain behind the app, any port, any case; environments before two hyphens; domains of what serves', async (t) => {
	const stage = await serving(t, (_req, res) => res.end('production'), { domains: ['notes.example.com', 'example.net'] });
	const staging = await startInstance(t, 1, (_req, res) => res.end('staging'), 's1');
	stage.tell({
		type: 'instances',
		server: 'local',
		groups: [{ region: 'fra', app: 'notes', environment: 'staging', instances: [staging.as('serving')] }],
	});
	stage.tell(wantsOf(wantOf(1, 1, { environment: 'staging' }), specOf(1, { environment: 'staging' })));
	for (const [host, body] of Object.entries({
		'notes.localhost': 'production',
		'notes.localhost:8080': 'production',
		'NOTES.Localhost.': 'production',
		'notes.internal.example.org': 'production',
		'production--notes.localhost': 'production',
		'notes.example.com': 'production',
		'example.net:443': 'production',
		'staging--notes.localhost:1': 'staging',
	})) {
		assert.equal((await ask(stage.port, { host })).body, body, host);
	}
	for (const host of [
		'other.localhost',
		'127.0.0.1',
		'[::1]:80',
		'localhost',
		'qa--notes.localhost',
		'staging--other.localhost',
		'--notes.localhost',
	]) {
		assert.equal((await ask(stage.port, { host })).status, 404, host);
	}
});

test('an unknown app: a page for people, JSON for programs, and nothing of the host that is not escaped', async (t) => {
	const stage = await openStage(t);
	const json = await ask(stage.port, { host: 'nope.localhost:8080' });
	assert.equal(json.status, 404);
	const { error } = JSON.parse(json.body) as { error: { code: string; message: string; hint: string } };
	assert.equal(error.code, 'unknown_app');
	assert.match(error.message, /nope\.localhost:8080/);
	const page = await ask(stage.port, { host: 'nope.localhost', headers: { accept: 'text/html,*/*' } });
	assert.equal(page.headers['content-type'], 'text/html; charset=utf-8');
	assert.match(page.body, /<h1>No app answers to nope\.localhost here\.<\/h1>/);
	assert.equal((await ask(stage.port, { host: 'nope.localhost', method: 'HEAD' })).body, '');
});

test('an app that never went live has a page of its own', async (t) => {
	const stage = await openStage(t);
	stage.tell(wantsOf(wantOf(1, 1), specOf(1)));
	const reply = await ask(stage.port);
	assert.equal(reply.status, 503);
	assert.match(reply.body, /nothing_serves/);
});

test('a single deployment of production is shown with a signed link only, which becomes a cookie', async (t) => {
	const stage = await serving(t, (_req, res) => res.end('one'));
	const next = await startInstance(t, 2, (req, res) => res.end(`two ${req.headers.cookie ?? 'no cookie'} ${req.url}`));
	stage.tell(wantsOf(wantOf(2, 1, { run: [{ release: 1, instances: 1, as: 'serving' }, { release: 2, instances: 1, as: 'prepared' }] }), specOf(2))); // prettier-ignore
	stage.tell(reportOf(stage.instance.as('serving'), next.as('prepared')));
	const host = '00000002--notes.localhost';
	assert.equal((await ask(stage.port, { host })).status, 401);
	const expires = Math.floor(systemClock.now() / 1000) + 60;
	const good = issueAccess({ deployment: 'dpl_00000002', expires }, stage.privatePem);
	const refused = {
		'of another deployment': issueAccess({ deployment: 'dpl_00000001', expires }, stage.privatePem),
		expired: issueAccess({ deployment: 'dpl_00000002', expires: expires - 120 }, stage.privatePem),
		'of another installation': issueAccess({ deployment: 'dpl_00000002', expires }, newSigningKey().privatePem),
		forged: `${good.slice(0, -4)}AAAA`,
		garbage: 'x',
	};
	for (const [name, access] of Object.entries(refused)) {
		assert.equal((await ask(stage.port, { host, path: `/?jibe-access=${access}` })).status, 401, name);
		assert.equal((await ask(stage.port, { host, headers: { cookie: `jibe-access=${access}` } })).status, 401, name);
	}
	const link = await ask(stage.port, { host, path: `/a?x=1&jibe-access=${good}` });
	assert.equal(link.status, 302);
	assert.equal(link.headers.location, '/a?x=1');
	const cookie = String(link.headers['set-cookie']);
	assert.match(cookie, /; HttpOnly; SameSite=Lax/);
	const shown = await ask(stage.port, { host, path: '/a', headers: { cookie: `own=1; ${cookie.split(';')[0]}` } });
	assert.equal(shown.body, 'two own=1 /a');
	assert.equal(shown.headers['x-jibe-release'], 'v2');
	stage.tell(reportOf(stage.instance.as('serving'), next.as('warm')));
	const frozen = await ask(stage.port, { host, headers: { cookie: String(cookie.split(';')[0]) } });
	assert.equal(frozen.status, 404);
	assert.match(frozen.body, /release_not_running/);
});

test('a single deployment of another environment needs no link; one that nobody knows is not running', async (t) => {
	const stage = await openStage(t);
	const staging = await startInstance(t, 1, (_req, res) => res.end('staging'), 's1');
	stage.tell({
		type: 'instances',
		server: 'local',
		groups: [{ region: 'fra', app: 'notes', environment: 'staging', instances: [staging.as('serving')] }],
	});
	stage.tell(wantsOf(wantOf(1, 1, { environment: 'staging' }), specOf(1, { environment: 'staging' })));
	assert.equal((await ask(stage.port, { host: '00000001--notes.localhost' })).body, 'staging');
	const unknown = await ask(stage.port, { host: '0000000z--notes.localhost' });
	assert.equal(unknown.status, 404);
	assert.match(unknown.body, /release_not_running/);
});
