import assert from 'node:assert/strict';
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { after, before, test } from 'node:test';
import { BackupWriter } from '#wire/backup-file.ts';
import { tinyApp, type App } from './fixtures/app.ts';
import { noDebianPostgres, startDebianPostgres } from './fixtures/debian-postgres.ts';
import { eventually, startJibe, type Jibe } from './fixtures/jibe.ts';

/** Everything in one file while it runs, and back on a machine that has nothing, whichever PostgreSQL there is. */

const HOST = 'app.localhost';
const SECRET = { JIBE_BACKUP_PASSPHRASE: 'correct horse battery staple' };
const source = (words: string) => `export default { fetch: () => new Response(${JSON.stringify(words)}) };\n`;

let jibe: Jibe;
let app: App;
let file: string;
const places: { data: string; env: Record<string, string> }[] = [];
before(async () => {
	jibe = await startJibe({ regions: 2 });
	file = join(dirname(jibe.data), 'first.backup');
	app = tinyApp('app', source('one'));
	await jibe.expect(0, ['deploy'], { cwd: app.dir });
	app.write('server.ts', source('two'));
	await jibe.expect(0, ['deploy'], { cwd: app.dir });
	app.git('init', '-q');
	app.commit('pushed');
	const rules = { production: null, hotfix: null, others: 'ignore', forks: 'ask' };
	const body = JSON.stringify({ forge: 'push', rules });
	assert.equal(
		(await jibe.api('/api/v1/repositories/app', { method: 'PUT', headers: { 'content-type': 'application/json' }, body })).status,
		200,
	);
	atGit(jibe.data, 'push', 'HEAD:main');
});
after(async () => {
	for (const { data, env } of places) await jibe.cli(['down', '--data', data], { env });
	app?.[Symbol.dispose]();
	await jibe?.stop();
});

async function serves(words: string): Promise<void> {
	await eventually(async () => {
		const bodies = await Promise.all([0, 1].map(async (region) => (await jibe.request(region, HOST, '/')).body));
		return bodies.every((body) => body === words) ? true : null;
	}, `${words} everywhere`);
}

/** The user's git and the control of this directory. */
function atGit(data: string, verb: string, ...words: string[]): string {
	const { url } = JSON.parse(readFileSync(join(data, 'endpoint.json'), 'utf8')) as { url: string };
	const basic = Buffer.from(`x:${readFileSync(join(data, 'admin.token'), 'utf8').trim()}`).toString('base64');
	return app.git('-c', `http.extraHeader=Authorization: Basic ${basic}`, verb, new URL('/git/app.git', url).href, ...words);
}

/** A directory of its own, ended with the story whatever happens. */
function place(name: string, env: Record<string, string> = {}): { data: string; env: Record<string, string> } {
	const one = { data: join(dirname(jibe.data), name), env: { ...SECRET, ...env } };
	places.push(one);
	return one;
}

test('a backup is made while a deploy walks', async () => {
	app.write('server.ts', source('three'));
	const [deployed, made] = await Promise.all([
		jibe.cli(['deploy'], { cwd: app.dir }),
		jibe.cli(['backup', file, '--all', '--json'], { env: SECRET }),
	]);
	assert.equal(deployed.code, 0, deployed.stderr);
	assert.equal(made.code, 0, made.stderr);
	assert.deepEqual([made.json?.['all'], made.json?.['keys'], made.json?.['sealed']], [true, true, true]);
	assert.equal(statSync(file).mode & 0o777, 0o600);
	const bytes = readFileSync(file);
	assert.ok(!bytes.includes('PRIVATE KEY') && !bytes.includes(SECRET.JIBE_BACKUP_PASSPHRASE));
	await serves('three');
});

test('who has no right, no passphrase, or names a file that is there, gets none', async () => {
	const other = join(dirname(jibe.data), 'other.backup');
	const token = (await jibe.expect(0, ['token', 'create', 'someone', '--role', 'deployer', '--json'])).json as { secret: string };
	const refused = await jibe.cli(['backup', other], { env: { ...SECRET, JIBE_SERVER: jibe.url, JIBE_TOKEN: token.secret } });
	assert.equal(refused.code, 5, refused.stderr);
	const open = await jibe.cli(['backup', other]);
	assert.equal(open.code, 2);
	assert.match(open.stderr, /private keys[\s\S]*JIBE_BACKUP_PASSPHRASE[\s\S]*--without-keys/);
	const again = await jibe.cli(['backup', file], { env: SECRET });
	assert.equal(again.code, 2);
	assert.match(again.stderr, /is there already/);
	assert.ok(!existsSync(other) && !existsSync(`${other}.partial`));
});

test('into a directory that runs, or with a file that is not right: refused, with what to do', async () => {
	const running = await jibe.cli(['restore', file], { env: SECRET });
	assert.equal(running.code, 2);
	assert.match(running.stderr, /already running/);
	const { data, env } = place('refused');
	const bytes = readFileSync(file);
	const bad = join(dirname(jibe.data), 'bad.backup');
	const changed = Buffer.from(bytes);
	changed[bytes.length >> 1]! ^= 1;
	const newer = Buffer.concat(new BackupWriter().begin({ format: 2, version: '3.1.0' }, null));
	for (const [content, words, environment] of [
		[bytes.subarray(0, bytes.length - 100), /cut short at byte \d+, within record \d+[\s\S]*copy it again/, env],
		[changed, /damaged or changed at byte \d+, in record \d+/, env],
		[newer, /made by Jibe 3\.1\.0, in a format that this one does not know[\s\S]*install that version/, env],
		[Buffer.from('something else'), /no backup of Jibe/, env],
		[bytes, /not the passphrase/, { ...env, JIBE_BACKUP_PASSPHRASE: 'another passphrase' }],
		[bytes, /sealed with a passphrase[\s\S]*JIBE_BACKUP_PASSPHRASE/, { JIBE_BACKUP_PASSPHRASE: '' }],
	] as const) {
		writeFileSync(bad, content);
		const result = await jibe.cli(['restore', bad, '--data', data], { env: environment });
		assert.equal(result.code, 2, result.stderr);
		assert.match(result.stderr, words);
	}
});

test('on a machine with nothing: the app serves, with its history, and can go back', async () => {
	await jibe.expect(0, ['down']);
	const { data, env } = place('second');
	const restored = await jibe.expect(0, ['restore', file, '--data', data, '--json'], { env });
	assert.equal(restored.json?.['epoch'], 2);
	await jibe.expect(0, ['up', '--detach', '--data', data], { env });
	const history = await jibe.expect(0, ['history', 'app', '--data', data, '--json'], { env });
	const deployments = history.json?.['deployments'] as { release: number; state: string }[];
	assert.ok(deployments.length >= 2);
	// The third was walking when it was made: whoever restored drives it to its end.
	await serves(deployments.length > 2 ? 'three' : 'two');
	await jibe.expect(0, ['rollback', 'app', '--to', 'v1', '--data', data], { env });
	await serves('one');
	assert.equal(atGit(data, 'ls-remote').split('\t')[0], app.git('rev-parse', 'HEAD'), 'what was pushed is there');
	app.commit('pushed after it');
	atGit(data, 'push', 'HEAD:main');
	await jibe.expect(0, ['down', '--data', data], { env });
	const again = await jibe.cli(['restore', file, '--data', data], { env });
	assert.equal(again.code, 2);
	assert.match(again.stderr, /there is the installation \w+ in this database[\s\S]*new directory/);
});

test('into the team’s own PostgreSQL, and from there into ours', { skip: noDebianPostgres }, async () => {
	const debian = await startDebianPostgres();
	try {
		const theirs = place('theirs', { DATABASE_URL: await debian.database() });
		await jibe.expect(0, ['restore', file, '--data', theirs.data], theirs);
		assert.ok(!existsSync(join(theirs.data, 'postgres')));
		await jibe.expect(0, ['up', '--detach', '--data', theirs.data], theirs);
		await eventually(async () => ((await jibe.request(0, HOST, '/')).status === 200 ? true : null), 'an answer');
		app.write('server.ts', source('four'));
		await jibe.expect(0, ['deploy', '--data', theirs.data], { ...theirs, cwd: app.dir });
		const back = join(dirname(jibe.data), 'back.backup');
		await jibe.expect(0, ['backup', back, '--data', theirs.data], theirs);
		await jibe.expect(0, ['down', '--data', theirs.data], theirs);
		const ours = place('ours');
		await jibe.expect(0, ['restore', back, '--data', ours.data], ours);
		await jibe.expect(0, ['up', '--detach', '--data', ours.data], ours);
		await serves('four');
		await jibe.expect(0, ['down', '--data', ours.data], ours);
	} finally {
		for (const { data, env } of places) await jibe.cli(['down', '--data', data], { env });
		await debian.stop();
	}
});
