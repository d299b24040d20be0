import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { tinyApp } from './fixtures/app.ts';
import { startJibe, type Jibe } from './fixtures/jibe.ts';

/** What is wrong with the source is said with its place, before anything is sent, and nothing is recorded. */

const GOOD = `export default { fetch: () => new Response('good') };\n`;

let jibe: Jibe;
before(async () => {
	jibe = await startJibe({ regions: 1 });
});
after(() => jibe.stop());

async function refused(app: ReturnType<typeof tinyApp>, code: number): Promise<string> {
	const result = await jibe.expect(code, ['deploy', '--json'], { cwd: app.dir });
	const history = await jibe.api(`/api/v1/deployments?app=${app.dir.split('/').at(-1)}`);
	assert.ok(!history.body.includes('"dpl_'), `no deployment is recorded: ${history.body}`);
	assert.doesNotMatch(result.stderr, /\n\s+at .*\(.*:\d+:\d+\)/, 'no stack trace of Jibe');
	return result.stderr + result.stdout;
}

test('a broken jibe.json is named with line and column', async () => {
	using app = tinyApp('broken', GOOD);
	app.write('jibe.json', '{\n  "app": "broken",\n  "entry": "server.ts"\n  "instances": 2\n}\n');
	const said = await refused(app, 2);
	assert.match(said, /jibe\.json:4:3/);
});

test('an unknown key is answered with the nearest known one', async () => {
	using app = tinyApp('unknown', GOOD, { instnces: 2 });
	const said = await refused(app, 2);
	assert.match(said, /instnces/);
	assert.match(said, /instances/);
});

test('a syntax error is shown with file, line and frame', async () => {
	using app = tinyApp('syntax', `import { x } from './lib.ts';\nexport default { fetch: () => new Response(x) };\n`);
	app.write('lib.ts', `export const x = 'a';\nexport const y = ;\n`);
	const said = await refused(app, 1);
	assert.match(said, /lib\.ts:2:18/);
	assert.match(said, /export const y = ;/);
});

test('an import that leads nowhere is named with its place', async () => {
	using app = tinyApp('unresolved', `import { x } from './nowhere.ts';\nexport default { fetch: () => new Response(x) };\n`);
	const said = await refused(app, 1);
	assert.match(said, /server\.ts:1/);
	assert.match(said, /nowhere/);
});

test('a package that is not in the lockfile is named, with what to run', async () => {
	using app = tinyApp('package', `import { x } from 'left-out';\nexport default { fetch: () => new Response(x) };\n`);
	const result = await jibe.cli(['deploy', '--json'], { cwd: app.dir });
	assert.ok(result.code === 1 || result.code === 2, `exit ${result.code}`);
	assert.match(result.stderr, /left-out/);
});

test('an entry without fetch is refused with what it should export', async () => {
	using app = tinyApp('nofetch', `export const answer = 42;\n`);
	const said = await refused(app, 1);
	assert.match(said, /fetch/);
	assert.match(said, /server\.ts/);
});

test('an entry that listens instead of exporting is told what to export', async () => {
	using app = tinyApp('listens', `import { createServer } from 'node:http';\ncreateServer(() => {}).listen(8000);\n`);
	const said = await refused(app, 1);
	assert.match(said, /server\.ts:2/);
	assert.match(said, /export default app/);
});

test('after all these refusals a good source goes live at once', async () => {
	using app = tinyApp('good', GOOD);
	const result = await jibe.expect(0, ['deploy', '--json'], { cwd: app.dir });
	assert.equal(result.json?.['state'], 'Deployed');
	assert.equal((await jibe.request(0, 'good.localhost', '/')).body, 'good');
});
