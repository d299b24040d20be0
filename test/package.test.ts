import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { runDirectory } from '#process/directory.ts';
import { tinyApp } from './fixtures/app.ts';
import { startJibe } from './fixtures/jibe.ts';

/** What `npm pack` makes works where nothing else of the repository is, and whatever Node comes first on PATH. */

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const NPM_TIMEOUT_MS = 120_000;
const UNREACHABLE = /ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|ENOTCACHED/;

/** As in a shell: without what `npm test` puts before it, and says about this repository. */
const SHELL_PATH = (process.env['PATH'] ?? '').split(delimiter).filter((directory) => !directory.includes('node_modules')).join(delimiter); // prettier-ignore
const NPM_ENV = {
	...Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^npm_(?!config_(?!local_prefix))|^INIT_CWD$/i.test(name))),
	PATH: SHELL_PATH,
};

const place = realpathSync(mkdtempSync(join(tmpdir(), 'jibe-package-')));
after(() => rmSync(place, { recursive: true, force: true }));

test('the package works installed alone, with an old Node first on PATH', async (t) => {
	const alone = join(place, 'alone');
	mkdirSync(alone);
	// The bundles are there: `npm test` built them.
	await npm(ROOT, 'pack', '--ignore-scripts', '--pack-destination', place);
	const [tarball] = readdirSync(place).filter((name) => name.endsWith('.tgz'));
	const problem = await npm(alone, 'install', '--prefer-offline', '--no-audit', '--no-fund', join(place, tarball!)).then(
		() => null,
		(error: Error) => error,
	);
	if (problem !== null && UNREACHABLE.test(problem.message)) return t.skip(`needs the npm registry: ${problem.message.slice(0, 500)}`);
	assert.equal(problem, null);

	const jibe = await startJibe({ regions: 2, bin: join(alone, 'node_modules/.bin/jibe'), env: { PATH: pathWithOldNode() } });
	const run = runDirectory(jibe.data);
	try {
		using app = tinyApp('alone', `const words: string = 'by itself';\nexport default { fetch: () => new Response(words) };\n`);
		const result = await jibe.expect(0, ['deploy', '--json'], { cwd: app.dir });
		assert.equal(result.json?.['state'], 'Deployed');
		for (const region of [0, 1]) assert.equal((await jibe.request(region, 'alone.localhost', '/')).body, 'by itself');
		for (const { pid, role } of jibe.pids()) if (role !== 'postgres') nothingOfRepository(pid);
	} finally {
		await jibe.stop();
	}
	assert.ok(!existsSync(run), `jibe down left ${run}`);
});

/** A Node that says what it is and then refuses to do anything, as one that is too old would. */
function pathWithOldNode(): string {
	const directory = join(place, 'old');
	mkdirSync(directory);
	writeFileSync(join(directory, 'node'), '#!/bin/sh\necho "v18.0.0 was started: $*" >&2\nexit 99\n', { mode: 0o755 });
	return [directory, SHELL_PATH].join(delimiter);
}

/** Nothing of the repository is in use: neither as a file that runs nor as one that was loaded. */
function nothingOfRepository(pid: number): void {
	if (process.platform !== 'linux') return;
	const used = readFileSync(`/proc/${pid}/maps`, 'utf8') + readFileSync(`/proc/${pid}/cmdline`, 'utf8');
	assert.ok(!used.includes(join(ROOT, 'node_modules')) && !used.includes(join(ROOT, 'dist')), `${pid} uses files of ${ROOT}\n${used}`);
}

function npm(cwd: string, ...words: string[]): Promise<string> {
	return new Promise((resolve, reject) => {
		execFile('npm', words, { cwd, env: NPM_ENV, timeout: NPM_TIMEOUT_MS }, (error, stdout, stderr) => {
			if (error === null) resolve(stdout);
			else reject(new Error(`npm ${words.join(' ')}: ${error.message}\n${stderr.slice(-4000)}\n${stdout.slice(-4000)}`));
		});
	});
}
