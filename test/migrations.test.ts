import assert from 'node:assert/strict';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { tinyApp, type App } from './fixtures/app.ts';
import { COMMAND_POLL_MS, eventually, kill, startJibe, type Jibe } from './fixtures/jibe.ts';

/** `migrate` and `smoke` of jibe.json: what runs on a server of the first region before, beside and after a release. */

const text = (words: string) => `export default { fetch: () => new Response(${JSON.stringify(words)}) };\n`;

/** Writes down each step of it where the app keeps its files; waits for a file, or fails, where its first line says so. */
const MIGRATE = `
import { appendFileSync, existsSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
const { JIBE_DATA_DIR: dir, JIBE_TASK: task, JIBE_RELEASE: release, DATABASE_URL: url } = process.env;
console.log('migrating', url);
appendFileSync(join(dir, 'ran'), \`\${task} \${release} \${url === 'postgres://secret-word@db'}\\n\`);
while (existsSync(join(dir, 'wait'))) await delay(20);
if (existsSync(join(dir, 'fail'))) throw new Error('no such table: notes');
appendFileSync(join(dir, 'done'), \`\${task} \${release}\\n\`);
`;

let jibe: Jibe;
before(async () => {
	jibe = await startJibe({ regions: 2 });
});
after(() => jibe.stop());

function migratingApp(name: string, config: Record<string, unknown>): App {
	return tinyApp(name, text('one'), { ...config }).write('migrate.js', MIGRATE);
}

const own = (app: string, file: string) => join(jibe.data, 'agent/files', app, 'production', jibe.regions[0]!.name, file);
const lines = (app: string, file: string): string[] => {
	try {
		return readFileSync(own(app, file), 'utf8').trim().split('\n');
	} catch {
		return [];
	}
};
const served = (app: string) =>
	Promise.all([0, 1].map(async (region) => (await jibe.request(region, `${app}.localhost`, '/')).body.trim().split('\n')[0]));
const releasesRunning = (status: unknown) =>
	(status as { regions: { instances: { release: number }[] }[] }).regions.flatMap(({ instances }) =>
		instances.map(({ release }) => release),
	);
const deploy = (app: App, code: number) => jibe.expect(code, ['deploy', '--json'], { cwd: app.dir });

test('migrate.before runs with the secrets of the release before that is started anywhere; when it fails nothing moves', async () => {
	using app = migratingApp('before', {});
	await deploy(app, 0);
	await jibe.expect(0, ['secret', 'set', 'DATABASE_URL', '--stage'], { cwd: app.dir, input: 'postgres://secret-word@db' });
	app.write(
		'jibe.json',
		JSON.stringify({ app: 'before', entry: 'server.ts', secrets: ['DATABASE_URL'], migrate: { before: 'node migrate.js' } }),
	);
	app.write('server.ts', text('two'));
	writeFileSync(own('before', 'fail'), '');
	const failed = await deploy(app, 1);
	assert.deepEqual([failed.json?.['state'], failed.json?.['reason']], ['DeployFailed', 'migration']);
	assert.match(failed.stderr, /what it has already changed in the database stays/);
	assert.match(failed.stderr, /no such table: notes/);
	assert.doesNotMatch(failed.stderr, /secret-word/);
	assert.deepEqual(lines('before', 'ran'), ['migrate-before v2 true']);
	assert.deepEqual(await served('before'), ['one', 'one']);
	const { stdout } = await jibe.expect(0, ['logs', 'before']);
	assert.match(stdout, /migrating \[secret DATABASE_URL\]/);

	writeFileSync(own('before', 'wait'), '');
	rmSync(own('before', 'fail'));
	app.write('server.ts', text('three'));
	const deploying = jibe.cli(['deploy', '--json'], { cwd: app.dir });
	await eventually(() => (lines('before', 'ran').length === 2 ? true : null), 'the migration to run');
	const { json: status } = await jibe.api('/api/v1/apps/before/status?environment=production');
	assert.deepEqual(releasesRunning(status), [1, 1], 'it is not started before that');
	rmSync(own('before', 'wait'));
	const done = await deploying;
	assert.equal(done.code, 0, done.stderr);
	assert.match(done.stderr, /✓ Migrated in/);
	assert.deepEqual(await served('before'), ['three', 'three']);
});

test('an agent that is killed while it migrates: the migration is run anew, once', async () => {
	using app = migratingApp('killed', {});
	await deploy(app, 0);
	app.write('jibe.json', JSON.stringify({ app: 'killed', entry: 'server.ts', migrate: { before: 'node migrate.js' } }));
	writeFileSync(own('killed', 'wait'), '');
	const deploying = jibe.cli(['deploy', '--json'], { cwd: app.dir });
	await eventually(() => (lines('killed', 'ran').length === 1 ? true : null), 'the migration to run');
	for (const { pid } of jibe.programs('agent')) kill(pid, 'SIGKILL');
	await eventually(() => (lines('killed', 'ran').length === 2 ? true : null), 'the migration to run again');
	rmSync(own('killed', 'wait'));
	const result = await deploying;
	assert.equal(result.code, 0, result.stderr);
	assert.deepEqual(lines('killed', 'done'), ['migrate-before v2']);
});

test('control that is killed meanwhile goes on with the migration that runs', async () => {
	using app = migratingApp('control', {});
	await deploy(app, 0);
	app.write('jibe.json', JSON.stringify({ app: 'control', entry: 'server.ts', migrate: { before: 'node migrate.js' } }));
	writeFileSync(own('control', 'wait'), '');
	const deploying = jibe.cli(['deploy', '--json'], { cwd: app.dir });
	await eventually(() => (lines('control', 'ran').length === 1 ? true : null), 'the migration to run');
	for (const { pid } of jibe.programs('control')) kill(pid, 'SIGKILL');
	await eventually(async () => ((await jibe.newest('control'))?.state === 'Deploying' ? true : null), 'control to be back');
	rmSync(own('control', 'wait'));
	const result = await deploying;
	assert.equal(result.code, 0, result.stderr);
	assert.deepEqual(lines('control', 'ran'), ['migrate-before v2 false']);
});

test('migrate.after waits for the end of the way back, and ends it: rollback below it is refused', async () => {
	using app = migratingApp('after', { warm: 'off', strategy: { type: 'walk', watch: '0s' } });
	await deploy(app, 0);
	const config = {
		app: 'after',
		entry: 'server.ts',
		warm: 'off',
		strategy: { type: 'walk', watch: '0s' },
		migrate: { after: 'node migrate.js' },
	};
	app.write('jibe.json', JSON.stringify(config)).write('server.ts', text('two'));
	writeFileSync(own('after', 'fail'), '');
	const id = String((await deploy(app, 0)).json?.['deployment']);
	await eventually(() => (lines('after', 'ran').length === 1 ? true : null), 'migrate.after to run');
	rmSync(own('after', 'fail'));
	const told = new RegExp(`migrate.after of ${id} failed; jibe promote ${id} runs it again: [^]*no such table`);
	await eventually(async () => (told.test((await jibe.cli(['status', 'after'])).stdout) ? true : null), 'it to have failed', {
		eachMs: COMMAND_POLL_MS,
	});
	await jibe.expect(0, ['promote', id]);
	await eventually(() => (lines('after', 'done').length === 1 ? true : null), 'migrate.after to be done');
	const refused = await eventually(async () => {
		const result = await jibe.cli(['rollback', 'after', '--json']);
		return result.code === 2 ? result : null;
	}, 'a rollback to be refused');
	assert.match(refused.stderr, /migrate\.after of v2/);
	assert.match(refused.stderr, /--past-migration/);
	assert.deepEqual(await served('after'), ['two', 'two']);
	await jibe.expect(0, ['rollback', 'after', '--past-migration', '--again', '--json']);
	assert.deepEqual(await served('after'), ['one', 'one']);
});
