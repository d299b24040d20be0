import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { tinyApp } from './fixtures/app.ts';
import { eventually, joinJibe, kill, startJibe, type Jibe } from './fixtures/jibe.ts';

/** Migrations where apps run on servers that joined: one of them is given it, with files and secrets that nothing else there needs yet. */

const MIGRATE = `
import { appendFileSync, existsSync, writeFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
appendFileSync(process.env.JIBE_DATA_DIR + '/ran', process.env.JIBE_TASK + ' ' + process.env.DATABASE_URL.length + '\\n');
writeFileSync(process.env.JIBE_DATA_DIR + '/pid', String(process.pid));
while (existsSync(process.env.JIBE_DATA_DIR + '/wait')) await delay(20);
`;

let jibe: Jibe;
let server: Jibe;
before(async () => {
	jibe = await startJibe({ regions: [], listen: true });
	server = await joinJibe(jibe, { region: 'fra', name: 'one' });
});
after(async () => {
	await server.stop();
	await jibe.stop();
});

test('a server is given a migration before the release is placed on it, with its secrets; its smoke test asks the edge there', async () => {
	using app = tinyApp('notes', `export default { fetch: () => new Response('one') };\n`, {
		secrets: ['DATABASE_URL'],
		migrate: { before: 'node migrate.js' },
		smoke: 'node -e "fetch(process.env.JIBE_URL).then((a) => a.text()).then((t) => console.log(process.env.JIBE_TASK, t))"',
	}).write('migrate.js', MIGRATE);
	await jibe.expect(0, ['secret', 'set', 'DATABASE_URL', '--stage'], { cwd: app.dir, input: '12345678' });
	await jibe.expect(0, ['deploy', '--json'], { cwd: app.dir });
	const ran = () => readFileSync(join(server.data, 'agent/files/notes/production/fra/ran'), 'utf8');
	assert.equal(ran(), 'migrate-before 8\n');
	const { stdout } = await jibe.expect(0, ['logs', 'notes']);
	assert.match(stdout, /smoke-prepared one/);
	assert.match(stdout, /smoke-live one/);

	writeFileSync(join(server.data, 'agent/files/notes/production/fra/wait'), '');
	app.edit('server.ts', 'one', 'two');
	const deploying = jibe.cli(['deploy', '--json'], { cwd: app.dir });
	await eventually(() => (ran().split('\n').length === 3 ? true : null), 'the migration to run');
	const { id } = (await jibe.newest('notes'))!;
	await jibe.expect(0, ['cancel', id]);
	const result = await deploying;
	assert.deepEqual([result.code, result.json?.['state']], [3, 'Cancelled'], result.stderr);
	const pid = Number(readFileSync(join(server.data, 'agent/files/notes/production/fra/pid'), 'utf8'));
	await eventually(() => (kill(pid, 'SIGCONT') ? null : true), 'an end of the migration');
});
