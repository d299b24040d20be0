import assert from 'node:assert/strict';
import { execFile, execFileSync } from 'node:child_process';
import { cpSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { App } from './fixtures/app.ts';
import { COMMAND_POLL_MS, eventually, startJibe, type Jibe } from './fixtures/jibe.ts';

/**
 * An app made of what real apps are made of: Express with views of EJS, a logger that writes from a worker thread, an addon
 * in native code, a package that patch-package has changed, and every way there is to reach a file of one's own.
 */

const FIXTURE = fileURLToPath(new URL('./fixtures/packages/', import.meta.url));
const INSTALL_LIMIT_MS = 120_000;
const HOST = 'packages.localhost';

const SERVER = `
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { Worker } from 'node:worker_threads';
import express from 'express';
import ms from 'ms';
import pino from 'pino';
import sharp from 'sharp';
import { total } from './old.cjs';

const page = await readFile(new URL('./page.html', import.meta.url), 'utf8');
const require = createRequire(import.meta.url);
const log = pino({ transport: { target: 'pino/file', options: { destination: 1 } } });
const app = express();
app.set('views', new URL('../views', import.meta.url).pathname);
app.set('view engine', 'ejs');

const ways: Record<string, () => unknown> = {
	page: () => page,
	computed: async () => ((await import('./routes/' + ['hel', 'lo'].join('') + '.ts')) as { hello: string }).hello,
	commonjs: () => total([1, 2, 3]),
	required: () => (require('./data.json') as { value: number }).value,
	patched: () => ms(60_000, { long: true }),
	image: async () => {
		const png = await sharp({ create: { width: 8, height: 4, channels: 3, background: 'red' } }).png().toBuffer();
		const { format, width, height } = await sharp(png).metadata();
		return { format, width, height };
	},
	worker: () => new Promise((resolve, reject) => new Worker(new URL('./worker.ts', import.meta.url)).once('message', resolve).once('error', reject)),
	logged: () => (log.info({ marker: 'from the worker' }, 'written'), 'yes'),
};
app.get('/view', (request, response) => response.render('page', { name: 'Ada <3' }));
app.get('/:way', async (request, response, next) => {
	const way = ways[request.params.way];
	if (way === undefined) return next();
	response.json({ answer: await way() });
});
export default app;
`;

function write(app: App): void {
	app.write('jibe.json', JSON.stringify({ app: 'packages', entry: 'src/server.ts', regions: ['fra'] }));
	app.write('src/server.ts', SERVER);
	app.write('src/page.html', '<p>a page</p>');
	app.write('src/data.json', '{ "value": 42 }');
	app.write('src/old.cjs', `const { sum } = require('./sum.cjs');\nexports.total = (numbers) => sum(numbers);\n`);
	app.write('src/sum.cjs', `exports.sum = (numbers) => numbers.reduce((a, b) => a + b, 0);\n`);
	app.write('src/routes/hello.ts', `export const hello: string = 'hello';\n`);
	app.write(
		'src/worker.ts',
		`import { parentPort } from 'node:worker_threads';\nimport { word } from './word.ts';\nparentPort!.postMessage(word);\n`,
	);
	app.write('src/word.ts', `export const word: string = 'from a thread';\n`);
	app.write('views/page.ejs', `<%- include('head') %><p><%= name %></p>`);
	app.write('views/head.ejs', '<h1>Views</h1>');
}

/** Installs as a user would; the reason why it can't be done here, or false. */
async function install(app: App): Promise<string | false> {
	cpSync(FIXTURE, app.dir, { recursive: true });
	const words = ['ci', '--prefer-offline', '--ignore-scripts', '--no-audit', '--no-fund'];
	try {
		await promisify(execFile)('npm', words, { cwd: app.dir, timeout: INSTALL_LIMIT_MS });
	} catch (error) {
		return `the packages can't be installed here: ${(error as Error).message.split('\n').at(-2)}`;
	}
	execFileSync(join(app.dir, 'node_modules/.bin/patch-package'), { cwd: app.dir, stdio: 'pipe' });
	return false;
}

const EXPECTED: Record<string, unknown> = {
	page: '<p>a page</p>',
	computed: 'hello',
	commonjs: 6,
	required: 42,
	patched: '1 patched minute',
	image: { format: 'png', width: 8, height: 4 },
	worker: 'from a thread',
	logged: 'yes',
};

let jibe: Jibe;
let app: App;
let skip: string | false;
before(async () => {
	app = new App('packages');
	skip = await install(app);
	write(app);
	jibe = await startJibe({ regions: 1 });
	if (skip === false) await jibe.expect(0, ['deploy', '--json'], { cwd: app.dir });
});
after(async () => {
	app[Symbol.dispose]();
	await jibe.stop();
});

async function answers(): Promise<Record<string, unknown>> {
	const found: Record<string, unknown> = {};
	for (const way of Object.keys(EXPECTED)) {
		const { status, body } = await jibe.request(0, HOST, `/${way}`);
		found[way] = status === 200 ? (JSON.parse(body) as { answer: unknown }).answer : `${status} ${body}`;
	}
	return found;
}

test('every way to a file, a package or a thread works, in a process that started cold', async (t) => {
	if (skip !== false) return t.skip(skip);
	assert.deepEqual(await answers(), EXPECTED);
	const view = await jibe.request(0, HOST, '/view');
	assert.equal(view.body, '<h1>Views</h1><p>Ada &lt;3</p>');
	await eventually(
		async () => ((await jibe.cli(['logs', 'packages'])).stdout.includes('from the worker') ? true : null),
		"the logger's line",
		{ eachMs: COMMAND_POLL_MS },
	);
});

test('the same in a process that had the packages imported before the release came, and after a rollback', async (t) => {
	if (skip !== false) return t.skip(skip);
	// The pool is filled once it is quiet.
	await eventually(() => (jibe.programs('instance').length >= 2 ? true : null), 'an idle process');
	app.edit('src/routes/hello.ts', `'hello'`, `'hello again'`);
	await jibe.expect(0, ['deploy', '--json'], { cwd: app.dir });
	assert.deepEqual(await answers(), { ...EXPECTED, computed: 'hello again' });
	await jibe.expect(0, ['rollback', '--json'], { cwd: app.dir });
	assert.deepEqual(await answers(), EXPECTED);
});

test('what changes in node_modules without a trace in the lockfile goes live too: a patch taken back', async (t) => {
	if (skip !== false) return t.skip(skip);
	const file = 'node_modules/ms/index.js';
	assert.match(readFileSync(join(app.dir, file), 'utf8'), /patched minute/);
	execFileSync(join(app.dir, 'node_modules/.bin/patch-package'), ['--reverse'], { cwd: app.dir, stdio: 'pipe' });
	await jibe.expect(0, ['deploy', '--json'], { cwd: app.dir });
	assert.deepEqual(await answers(), { ...EXPECTED, computed: 'hello again', patched: '1 minute' });
});
