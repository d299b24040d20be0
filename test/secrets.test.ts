import assert from 'node:assert/strict';
import { readdirSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { tinyApp, type App } from './fixtures/app.ts';
import { COMMAND_POLL_MS, eventually, startJibe, type Jibe } from './fixtures/jibe.ts';

/** Secrets from the prompt to the app, and nowhere else on the way. */

const VALUES = { first: 'postgres://notes:correct-horse-1@db/notes', second: 'postgres://notes:battery-staple-2@db/notes' };
const TELLING = /correct-horse-1|battery-staple-2|Y29ycmVjdC1ob3JzZS|YmF0dGVyeS1zdGFwbG|never-to-be-seen/;
const SOURCE = `
	console.log('the database is', process.env.DATABASE_URL);
	export default { fetch: () => Response.json({ url: process.env.DATABASE_URL, release: process.env.JIBE_RELEASE }) };
`;

let jibe: Jibe;
let app: App;
before(async () => {
	jibe = await startJibe({ regions: 2 });
	app = tinyApp('app', SOURCE, { secrets: ['DATABASE_URL'], strategy: { type: 'walk', watch: '1s' } });
});
after(async () => {
	app[Symbol.dispose]();
	await jibe.stop();
});

const answer = async (region = 0) => (await jibe.request(region, 'app.localhost', '/')).json;
const set = (value: string, words: string[] = [], code = 0) =>
	jibe.expect(code, ['secret', 'set', 'DATABASE_URL', '--json', ...words], { cwd: app.dir, input: `${value}\n` });
const states = async () => {
	const { json, stdout } = await jibe.expect(0, ['secret', 'list', '--json'], { cwd: app.dir });
	assert.doesNotMatch(stdout, TELLING);
	const { secrets } = json as { secrets: { name: string; versions: { version: number; state: string; by: string }[] }[] };
	return secrets.map(({ name, versions }) => [name, ...versions.map(({ version, state }) => `${version} ${state}`)].join(' '));
};

test('a deploy that needs a secret which is not there is refused, and no value is taken as an argument', async () => {
	const refused = await jibe.expect(2, ['deploy'], { cwd: app.dir });
	assert.match(refused.stderr, /DATABASE_URL/);
	assert.match(refused.stderr, /jibe secret set DATABASE_URL --app app/);
	const told = await jibe.expect(2, ['secret', 'set', 'DATABASE_URL=never-to-be-seen'], { cwd: app.dir });
	assert.match(told.stderr, /no argument/);
	assert.doesNotMatch(told.stderr, /never-to-be-seen/);
	await jibe.expect(2, ['secret', 'set', 'DATABASE_URL'], { cwd: app.dir, input: '\n' });
	assert.deepEqual(await states(), []);
});

test('an app reads its secret, and nobody reads it anywhere else', async () => {
	const { json } = await set(VALUES.first);
	assert.equal(json?.['set'], 'DATABASE_URL', 'nothing serves yet');
	await jibe.expect(0, ['deploy', '--json'], { cwd: app.dir });
	for (const region of [0, 1]) assert.deepEqual(await answer(region), { url: VALUES.first, release: 'v1' });

	const { json: live } = await set(VALUES.second);
	assert.deepEqual([live?.['state'], live?.['release'], live?.['uploadedBytes']], ['Deployed', 'v2', 0]);
	for (const region of [0, 1]) assert.deepEqual(await answer(region), { url: VALUES.second, release: 'v2' });
	assert.deepEqual(await states(), ['DATABASE_URL 2 current 1 previous']);

	const logs = await eventually(
		async () => {
			const { stdout } = await jibe.expect(0, ['logs'], { cwd: app.dir });
			return stdout.includes('the database is') ? stdout : null;
		},
		'the output of the app',
		{ eachMs: COMMAND_POLL_MS },
	);
	assert.match(logs, /the database is \[secret DATABASE_URL\]/);
	for (const { pid, line } of jibe.pids()) {
		assert.doesNotMatch(line, TELLING);
		if (process.getuid?.() === 0) assert.doesNotMatch(readFileSync(`/proc/${pid}/environ`, 'latin1'), TELLING, line);
	}
	assert.doesNotMatch((await jibe.api('/api/v1/events')).body + (await jibe.api('/api/v1/audit?limit=100')).body, TELLING);
	// PostgreSQL's files and write-ahead log, the agent's disk, every log.
	assert.deepEqual(tellers(), []);
	assert.equal(statSync(join(jibe.data, 'master.key')).mode & 0o777, 0o600);
});

test('a rollback uses the version that the release pins', async () => {
	const { json } = await jibe.expect(0, ['rollback', 'app', '--json']);
	assert.deepEqual([json?.['state'], json?.['release']], ['Deployed', 'v1']);
	assert.deepEqual(await answer(), { url: VALUES.first, release: 'v1' });
	await jibe.expect(0, ['rollback', 'app', '--to', 'v2', '--again', '--json']);
	assert.deepEqual(await answer(), { url: VALUES.second, release: 'v2' });
});

test('with --revoke-old the old version ends once the new one serves; a rollback then takes the newest, and asks at the gate', async () => {
	const { json } = await set('postgres://notes:third-of-them@db/notes', ['--revoke-old']);
	assert.equal(json?.['release'], 'v3');
	await eventually(async () => ((await states())[0] === 'DATABASE_URL 3 current 2 revoked 1 revoked' ? true : null), 'both revoked', {
		eachMs: COMMAND_POLL_MS,
	});
	const { json: back } = await jibe.expect(0, ['rollback', 'app', '--to', 'v1', '--again', '--json']);
	assert.deepEqual([back?.['state'], back?.['release']], ['Deployed', 'v1']);
	assert.deepEqual(await answer(), { url: 'postgres://notes:third-of-them@db/notes', release: 'v1' });
	assert.notEqual((back?.['timings'] as { canaryMs: number | null } | undefined)?.canaryMs ?? null, null, 'its gate is not skipped');
	const kept = await eventually(() => {
		const names = readdirSync(join(jibe.data, 'agent', 'secrets'));
		return names.includes('app@production@2') ? null : names;
	}, 'the secrets of v2 to be forgotten');
	assert.ok(kept.includes('app@production@1'));
});

test('a secret that what serves needs is not removed; another one is', async () => {
	assert.match((await jibe.expect(2, ['secret', 'rm', 'DATABASE_URL'], { cwd: app.dir })).stderr, /v1 of app runs with DATABASE_URL/);
	await jibe.expect(0, ['secret', 'set', 'OTHER'], { cwd: app.dir, input: 'never-to-be-seen' });
	await jibe.expect(0, ['secret', 'rm', 'OTHER'], { cwd: app.dir });
	await jibe.expect(2, ['secret', 'rm', 'OTHER'], { cwd: app.dir });
	assert.deepEqual(await states(), ['DATABASE_URL 3 current 2 revoked 1 revoked']);
});

test('who may deploy an app may set its secrets, and nobody else', async () => {
	const as = async (...words: string[]) => {
		const made = await jibe.expect(0, ['token', 'create', `t${words.length}${words.at(-1)}`, '--json', ...words]);
		return { JIBE_SERVER: jibe.url, JIBE_TOKEN: String(made.json?.['secret']) };
	};
	const attempt = (code: number, env: Record<string, string>, words: string[]) =>
		jibe.expect(code, words, { cwd: app.dir, env, input: 'never-to-be-seen' });
	const viewer = await as('--role', 'viewer');
	await attempt(0, viewer, ['secret', 'list']);
	await attempt(5, viewer, ['secret', 'set', 'A', '--stage']);
	await attempt(5, await as('--role', 'deployer', '--apps', 'other'), ['secret', 'set', 'A', '--stage']);
	await attempt(5, await as('--role', 'deployer', '--environments', 'staging'), ['secret', 'set', 'A', '--stage']);
	const deployer = await as('--role', 'deployer');
	await attempt(0, deployer, ['secret', 'set', 'A', '--stage']);
	await attempt(5, deployer, ['secret', 'rotate']);
	await attempt(0, deployer, ['secret', 'rm', 'A']);
});

test('the master key changes while everything runs; lost, it is said what that means, and how to go on', async () => {
	const file = join(jibe.data, 'master.key');
	const before = readFileSync(file, 'utf8');
	const { json } = await jibe.expect(0, ['secret', 'rotate', '--json']);
	assert.equal(json?.['rewrapped'], 1);
	assert.notEqual(readFileSync(file, 'utf8'), before);
	app.write('more.txt', 'two');
	await jibe.expect(0, ['deploy', '--json'], { cwd: app.dir });
	assert.equal((await answer())?.['url'], 'postgres://notes:third-of-them@db/notes');

	const doctor = async () => {
		const { json: found } = await jibe.api('/api/v1/doctor');
		const { findings } = found as { findings: { check: string; state: string; detail: string; hint: string | null }[] };
		return findings.find(({ check }) => check === 'secrets');
	};
	assert.deepEqual([(await doctor())?.state, (await doctor())?.hint], ['ok', null]);
	renameSync(file, `${file}.kept`);
	assert.equal((await doctor())?.state, 'bad');
	assert.match((await doctor())!.detail, /DATABASE_URL of app \(production\)/);
	assert.match((await doctor())!.hint!, /--lost-key/);
	app.write('more.txt', 'three');
	const lost = await jibe.expect(4, ['deploy'], { cwd: app.dir });
	assert.match(lost.stderr, /DATABASE_URL of app \(production\)/);
	assert.match(lost.stderr, /--lost-key/);
	writeFileSync(file, before, { mode: 0o600 });
	assert.match((await jibe.expect(4, ['deploy'], { cwd: app.dir })).stderr, /there is only [0-9a-f]{16}/, 'the former one does not do');
	assert.equal((await answer())?.['url'], 'postgres://notes:third-of-them@db/notes', 'what runs goes on');

	renameSync(`${file}.kept`, file);
	assert.match((await jibe.expect(2, ['secret', 'rotate', '--lost-key'])).stderr, /not lost/);
	renameSync(file, `${file}.lost`);
	const begun = await jibe.expect(0, ['secret', 'rotate', '--lost-key', '--json']);
	assert.deepEqual(begun.json?.['lost'], [{ app: 'app', environment: 'production', name: 'DATABASE_URL' }]);
	assert.match((await jibe.expect(2, ['deploy'], { cwd: app.dir })).stderr, /jibe secret set DATABASE_URL/);
	await set('postgres://notes:fourth-of-them@db/notes', ['--stage']);
	await jibe.expect(0, ['deploy', '--json'], { cwd: app.dir });
	assert.equal((await answer())?.['url'], 'postgres://notes:fourth-of-them@db/notes');
});

function tellers(): string[] {
	const files = readdirSync(jibe.data, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
	return files.map(({ parentPath, name }) => join(parentPath, name)).filter((file) => TELLING.test(textOf(file)));
}

function textOf(file: string): string {
	try {
		return readFileSync(file, 'latin1');
	} catch (error) {
		if ((error as NodeJS.ErrnoException).code === 'ENOENT') return ''; // a draft, which has its own name by now
		throw error;
	}
}
