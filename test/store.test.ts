import assert from 'node:assert/strict';
import { existsSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { tinyApp, type App } from './fixtures/app.ts';
import { eventually, kill, startJibe, type Jibe } from './fixtures/jibe.ts';
import { startS3, type TestS3 } from './fixtures/s3.ts';

/** An installation whose blobs are in S3: deploys go there, and what S3 does wrong is said, and moves nothing. */

const HOST = 'app.localhost';
const source = (words: string) => `export default { fetch: () => new Response(${JSON.stringify(words)}) };\n`;

let s3: TestS3;
let jibe: Jibe;
let app: App;
before(async () => {
	s3 = await startS3();
	jibe = await startJibe({ regions: 2, env: s3.env });
	app = tinyApp('app', source('zero'));
	await jibe.expect(0, ['deploy'], { cwd: app.dir });
	await jibe.expect(0, ['down']);
	await jibe.expect(0, ['up', '--detach', '--store', s3.url]);
	app.write('server.ts', source('one'));
	await jibe.expect(0, ['deploy'], { cwd: app.dir });
});
after(async () => {
	app?.[Symbol.dispose]();
	await jibe?.stop();
	await s3?.stop();
});

async function serves(words: string): Promise<void> {
	await eventually(async () => {
		const bodies = await Promise.all([0, 1].map(async (region) => (await jibe.request(region, HOST, '/')).body));
		return bodies.every((body) => body === words) ? true : null;
	}, `${words} everywhere`);
}

async function restartControl(): Promise<void> {
	const [old] = jibe.programs('control');
	kill(old!.pid, 'SIGKILL');
	await eventually(() => (jibe.programs('control').some(({ pid }) => pid !== old!.pid) ? true : null), 'a new control');
}

test('what was on disk has moved to S3, a deploy is there, and the store is remembered', async () => {
	await eventually(() => (existsSync(join(jibe.data, 'blobs')) ? null : true), 'an end of blobs/');
	assert.ok(s3.seen.some((line) => /^PUT .*\/blobs\/.*\.pack/.test(line)));
	await jibe.expect(0, ['down']);
	await jibe.expect(0, ['up', '--detach']);
	await serves('one');
	app.write('server.ts', source('two'));
	const before = s3.seen.length;
	await jibe.expect(0, ['deploy'], { cwd: app.dir });
	await serves('two');
	assert.ok(s3.seen.slice(before).some((line) => line.startsWith('PUT ')));
});

test('with S3 down a deploy is refused, a rollback goes, and control starts', async () => {
	s3.meddle = () => ({ cut: true });
	app.write('server.ts', source('three'));
	const refused = await jibe.cli(['deploy', '--json'], { cwd: app.dir });
	assert.equal(refused.code, 4, refused.stderr);
	assert.match(refused.stderr, /s3:\/\/jibe-test.*can't be reached/);
	await serves('two');
	await restartControl();
	await jibe.expect(0, ['rollback', 'app']);
	await serves('one');
	s3.meddle = null;
	await jibe.expect(0, ['deploy'], { cwd: app.dir });
	await serves('three');
});

test('with an S3 that forgets what it is given, a deploy is refused; once it keeps it, the same deploy goes', async () => {
	s3.meddle = ({ method }) => (method === 'PUT' ? { status: 200 } : undefined);
	app.write('server.ts', source('four'));
	const refused = await jibe.cli(['deploy', '--json'], { cwd: app.dir });
	assert.equal(refused.code, 4, refused.stderr);
	assert.match(refused.stderr, /was said to be stored.*is not there/);
	await serves('three');
	s3.meddle = null;
	await jibe.expect(0, ['deploy'], { cwd: app.dir });
	await serves('four');
});

test('everything but S3 lost: depots and agents get their blobs from there', async () => {
	await jibe.expect(0, ['down']);
	for (const name of ['store-cache', 'depot', 'agent']) rmSync(join(jibe.data, name), { recursive: true, force: true });
	await jibe.expect(0, ['up', '--detach']);
	await serves('four');
	await jibe.expect(0, ['rollback', 'app', '--to', 'v1']);
	await serves('zero');
	await jibe.expect(0, ['rollback', 'app', '--to', 'v5', '--again']);
	await serves('four');
});

test('a store that is none is refused before anything starts', async () => {
	await jibe.expect(0, ['down']);
	const wrong = await jibe.cli(['up', '--detach', '--store', 'gs://bucket']);
	assert.equal(wrong.code, 2);
	assert.match(wrong.stderr, /--store takes s3:\/\/bucket/);
	const absent = await jibe.cli(['up', '--detach', '--store', 's3://not-there']);
	assert.equal(absent.code, 4);
	assert.match(absent.stderr, /NoSuchBucket/);
	await jibe.expect(0, ['up', '--detach', '--store', s3.url]);
	await serves('four');
});
