import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
	chmodSync,
	cpSync,
	existsSync,
	readdirSync,
	readFileSync,
	renameSync,
	rmSync,
	statSync,
	truncateSync,
	utimesSync,
	writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { pause, systemClock } from '#clock/clock.ts';
import { applyDelta, manifestOf, treeOf } from '#store/manifest.ts';
import { sha256 } from '#digest/digest.ts';
import { ActionCache } from './action-cache.ts';
import { actionKey, compileModule, DEFAULT_OPTIONS, TOOLCHAIN } from './compile.ts';
import { isRacy, STAMP_GRANULARITY_MS } from './files.ts';
import { indexOf, SERVER, testApp, textOf, type TestApp } from './testbed.ts';
import { verifyBuild } from './verify.ts';

const APP = {
	'src/server.ts': `import { greet } from './greet.ts';\nexport default { fetch: () => new Response(greet('you')) };\n`,
	'src/greet.ts': `import { mark } from './mark.ts';\n/** Greets. */\nexport const greet = (name: string): string => 'hello ' + name + mark;\n`,
	'src/mark.ts': `export const mark = '!';\nexport interface Unused { a: number }\n`,
	'public/page.html': '<p>page</p>\n',
};

test('an artifact has compiled modules, their maps, other files, and an index', async () => {
	using app = testApp(APP);
	const built = await app.build();
	assert.deepEqual(
		[...built.manifest.keys()],
		[
			'files/package.json',
			'files/public/page.html',
			'index.json',
			'maps/src/greet.ts.map',
			'maps/src/mark.ts.map',
			'maps/src/server.ts.map',
			'modules/src/greet.ts',
			'modules/src/mark.ts',
			'modules/src/server.ts',
		],
	);
	assert.equal(
		textOf(built, 'modules/src/greet.ts'),
		`import { mark } from "./mark.ts";\nexport const greet = (name) => "hello " + name + mark;\n`,
	);
	assert.deepEqual(indexOf(built).modules['src/server.ts'], { format: 'module', resolve: { './greet.ts': 'src/greet.ts' } });
	assert.deepEqual(built.modules, { compiled: 3, cached: 0 });
	assert.equal(treeOf(built.manifest).root, built.artifact);
});

test('golden digests: another artifact from these sources means that the toolchain changed its output', async () => {
	using app = testApp({
		...APP,
		'tsconfig.json': '{"compilerOptions":{"jsx":"react-jsx","jsxImportSource":"#jsx"}}',
		'src/server.ts': `import { greet } from './greet.ts';
import data from './data.json';
import { View } from './view.tsx';
enum Level { Low = 1, High }
abstract class Base<T> { constructor(protected readonly value: T, private x?: number) {} declare y: string; }
class Thing extends Base<number> { #secret = 2 as const; get level(): Level { return Level.High; } static { void 0; } }
export default { async fetch(request: Request): Promise<Response> { return new Response(greet(data.name!) + View + new Thing(1).level satisfies string); } };\n`,
		'src/data.json': '{"name":"data"}\n',
		'src/view.tsx': `const jsx = (tag: string, props: object) => tag + JSON.stringify(props);\nexport const View = <p class="a">{/* nothing */}text</p>;\n`,
		'src/jsx-runtime.ts': `export const jsx = (tag: string, props: object) => tag + JSON.stringify(props);\n`,
		'package.json': '{"name":"app","type":"module","imports":{"#jsx/jsx-runtime":"./src/jsx-runtime.ts"}}',
	});
	const built = await app.build();
	const digests = Object.fromEntries(
		[...built.manifest].flatMap(([path, entry]) => ('link' in entry ? [] : [[path, entry[0].slice(7, 19)]])),
	);
	assert.deepEqual(digests, {
		'files/package.json': 'a643b75a9572',
		'files/public/page.html': '0b9fee13e159',
		'files/src/data.json': 'e4613f626db7',
		'index.json': 'be4f823cab07',
		'maps/src/greet.ts.map': '1dc863be601e',
		'maps/src/jsx-runtime.ts.map': '6e975d639b2e',
		'maps/src/mark.ts.map': 'e59abc5bfa84',
		'maps/src/server.ts.map': '53c8f148920c',
		'maps/src/view.tsx.map': 'b41bb111846d',
		'modules/src/data.json': 'e4613f626db7',
		'modules/src/greet.ts': '0f2f214883c7',
		'modules/src/jsx-runtime.ts': 'dffce6fdf5b0',
		'modules/src/mark.ts': 'fe39b097e203',
		'modules/src/server.ts': 'ed2e29226d7c',
		'modules/src/view.tsx': '780fe5bc93df',
	});
	assert.equal(built.artifact, 'sha256:e18db3f3d049f94b1e0743b59f0365a1b8d5c4ec91ab54f0e3a7463b7afa7f85');
});

test('nothing changed: nothing compiled; one edit: one compiled; reverted: cached', async () => {
	using app = testApp(APP);
	const first = await app.build();
	const again = await app.build();
	assert.equal(again.artifact, first.artifact);
	assert.deepEqual(again.modules, { compiled: 0, cached: 3 });
	app.write({ 'src/mark.ts': `export const mark = '?';\n` });
	const edited = await app.build();
	assert.notEqual(edited.artifact, first.artifact);
	assert.deepEqual(edited.modules, { compiled: 1, cached: 2 });
	assert.equal(textOf(edited, 'modules/src/mark.ts'), 'export const mark = "?";\n');
	app.write({ 'src/mark.ts': APP['src/mark.ts'] });
	const reverted = await app.build();
	assert.equal(reverted.artifact, first.artifact);
	assert.deepEqual(reverted.modules, { compiled: 0, cached: 3 });
});

test('an edit of types or comments changes no compiled code', async () => {
	using app = testApp(APP);
	const first = await app.build();
	app.write({
		'src/mark.ts': `// A word.\nexport const mark = '!';\nexport interface Unused { a: number; b: string }\nexport type More = Unused;\n`,
		'src/greet.ts': `import { mark } from './mark.ts';\n/** Greets, loudly. */\n/* and */ export const greet = (name: string): string => 'hello ' + /* here */ name + mark; // end\n`,
	});
	const second = await app.build();
	for (const path of ['modules/src/mark.ts', 'modules/src/greet.ts'])
		assert.deepEqual(second.manifest.get(path), first.manifest.get(path), path);
});

test('a change that keeps size and modification time is seen', async () => {
	using app = testApp(APP);
	const path = join(app.dir, 'src/mark.ts');
	utimesSync(path, 1_700_000_000, 1_700_000_000);
	await stampsAreOld(path);
	await app.build();
	writeFileSync(path, APP['src/mark.ts'].replace('!', '?'));
	utimesSync(path, 1_700_000_000, 1_700_000_000);
	assert.match(textOf(await app.build(), 'modules/src/mark.ts'), /"\?"/);
	renameSync(path, `${path}.old`);
	writeFileSync(path, APP['src/mark.ts']);
	utimesSync(path, 1_700_000_000, 1_700_000_000);
	assert.match(textOf(await app.build(), 'modules/src/mark.ts'), /"!"/);
});

/** Until a change would get a stamp that the last build could not have seen: before that content decides, not stamps. */
async function stampsAreOld(path: string): Promise<void> {
	while (systemClock.now() < statSync(path).ctimeMs + 2 * STAMP_GRANULARITY_MS) await pause(5);
}

test('files stamped as late as the scan are never trusted by their stamps', () => {
	const stamps = BigInt64Array.from([10n, 5_000_000_000n, 5_000_000_000n, 1n]);
	assert.equal(isRacy(stamps, 0, 5_000_000_000n), true);
	assert.equal(isRacy(stamps, 0, 5_010_000_000n), true);
	assert.equal(isRacy(stamps, 0, 5_100_000_000n), false);
	assert.equal(isRacy(BigInt64Array.from([10n, 1n, 5_000_000_000n, 1n]), 0, 5_000_000_000n), true, 'a restored modification time');
});

test('an import added of a file that was there is linked', async () => {
	using app = testApp({ ...APP, 'src/late.ts': 'export const late = 1;\n' });
	assert.equal((await app.build()).modules.compiled, 3);
	app.write({ 'src/mark.ts': `export { late as mark } from './late.ts';\n` });
	const built = await app.build();
	assert.deepEqual(indexOf(built).modules['src/mark.ts']?.resolve, { './late.ts': 'src/late.ts' });
	assert.ok(built.manifest.has('modules/src/late.ts'));
	app.write({ 'src/mark.ts': `export const other = 1;\n` });
	assert.equal((await app.fault()).code, 'missing_export');
});

test('a new file that an import now means is found', async () => {
	using app = testApp({
		...APP,
		'src/server.ts': `import { x } from './x';\nexport default { fetch: () => new Response(x) };\n`,
		'src/x/index.ts': `export const x = 'index';\n`,
	});
	assert.equal(indexOf(await app.build()).modules['src/server.ts']?.resolve['./x'], 'src/x/index.ts');
	app.write({ 'src/x.ts': `export const x = 'file';\n` });
	assert.equal(indexOf(await app.build()).modules['src/server.ts']?.resolve['./x'], 'src/x.ts');
	app.remove('src/x.ts');
	assert.equal(indexOf(await app.build()).modules['src/server.ts']?.resolve['./x'], 'src/x/index.ts');
});

test('the delta is against what the target accepted last, and its new blobs suffice', async () => {
	using app = testApp(APP);
	const first = await app.build();
	assert.equal(first.delta.base, null);
	assert.equal(first.newBlobs.size, new Set([...first.manifest.values()].map((entry) => ('link' in entry ? '' : entry[0]))).size);
	app.write({ 'src/mark.ts': `export const mark = '1';\n` });
	assert.equal((await app.build()).delta.base, null, 'the first was never accepted');
	first.markAccepted();
	app.write({ 'src/mark.ts': `\nexport const mark = '2';\n` });
	const third = await app.build();
	assert.equal(third.delta.base, first.artifact);
	assert.deepEqual(Object.keys(third.delta.set).sort(), ['maps/src/mark.ts.map', 'modules/src/mark.ts']);
	assert.equal(treeOf(applyDelta(first.manifest, third.delta)).root, third.artifact);
	for (const [digest, bytes] of third.newBlobs) assert.equal(sha256(bytes), digest);
	assert.equal((await app.build({}, { target: 'other' })).delta.base, null, 'another target has not accepted it');
	third.markAccepted();
	assert.deepEqual((await app.build()).delta, { base: third.artifact, set: {}, delete: [] });
});

test('a chain of random edits gives what a build from nothing gives', async () => {
	const paths = ['src/a.ts', 'src/b.ts', 'src/deep/c.ts', 'data/d.txt', 'src/e.json'];
	const edit = fc.tuple(fc.constantFrom(...paths), fc.nat(5));
	const content = (path: string, seed: number): string | null => {
		if (seed === 0) return null;
		if (path.endsWith('.json')) return JSON.stringify({ seed });
		if (!path.endsWith('.ts')) return `text ${seed}`;
		return seed < 4
			? `export const v = ${seed};\n`
			: `import type { X } from './nowhere.ts';\nexport const v = ${seed}, more = 1;\n// ${seed}\n`;
	};
	await fc.assert(
		fc.asyncProperty(fc.array(edit, { minLength: 1, maxLength: 6 }), async (edits) => {
			using app = testApp({ 'src/server.ts': SERVER });
			const there = new Map<string, string>();
			for (const [path, seed] of edits) {
				const text = content(path, seed);
				if (text === null) {
					if (there.delete(path)) app.remove(path);
				} else {
					there.set(path, text);
					app.write({ [path]: text });
				}
				const imports = [...there.keys()].filter((each) => /\.(ts|json)$/.test(each));
				const lines = imports.map((each) => `import * as m${imports.indexOf(each)} from '.${each.slice('src'.length)}';`);
				app.write({ 'src/server.ts': `${lines.join('\n')}\n${SERVER}console.log(${imports.map((_, i) => `m${i}`).join()});\n` });
				const built = await app.build();
				const fresh = await app.build({}, { cacheDir: `${app.cacheDir}-fresh` });
				rmSync(`${app.cacheDir}-fresh`, { recursive: true });
				assert.equal(built.artifact, fresh.artifact);
				assert.deepEqual([...built.manifest], [...fresh.manifest]);
			}
		}),
		{ numRuns: 12 },
	);
});

test('what is in the artifact does not depend on where, when and in which order the files were made', async () => {
	using app = testApp(APP);
	using other = testApp({});
	other.write(Object.fromEntries(Object.entries(APP).reverse()));
	utimesSync(join(other.dir, 'src/greet.ts'), 1, 1);
	assert.equal((await other.build()).artifact, (await app.build()).artifact);
	const verified = await verifyBuild({ dir: app.dir, cacheDir: app.cacheDir, nodeVersion: '24.21.0', config: { entry: 'src/server.ts' } });
	assert.deepEqual({ same: verified.same, differing: verified.differing }, { same: true, differing: [] });
});

test('verify names what differs when the cache was tampered with', async () => {
	using app = testApp(APP);
	const cache = new ActionCache(join(app.cacheDir, 'actions'));
	const compiled = compileModule('src/mark.ts', APP['src/mark.ts'], 'ts', DEFAULT_OPTIONS);
	cache.put(actionKey(sha256(APP['src/mark.ts']), 'ts', DEFAULT_OPTIONS), {
		...compiled,
		code: Buffer.from('export const mark = "evil";'),
	});
	cache.flush();
	const verified = await verifyBuild({ dir: app.dir, cacheDir: app.cacheDir, nodeVersion: '24.21.0', config: { entry: 'src/server.ts' } });
	assert.deepEqual({ same: verified.same, differing: verified.differing }, { same: false, differing: ['modules/src/mark.ts'] });
});

test('.gitignore, .env, tests and lockfiles stay out; include and exclude have the last word', async () => {
	using app = testApp({
		...APP,
		'.gitignore': 'dist/\n*.log\n!keep.log\n',
		'.env': 'SECRET=1',
		'.env.production': 'SECRET=2',
		'.npmrc': '//registry/:_authToken=secret',
		'a.log': 'log',
		'keep.log': 'log',
		'dist/old.js': 'old',
		'src/greet.test.ts': 'test',
		'src/types.d.ts': 'declare const x: number;',
		'src/unreached.ts': 'export {};',
		'public/app.js': 'browser()',
		'jibe.json': '{}',
		'migrations/1.sql': 'create table t (x);',
		'sub/.gitignore': '/private\n',
		'sub/private/key': 'x',
		'sub/public/key': 'x',
	});
	const files = async (config = {}) =>
		[...(await app.build(config)).manifest.keys()].filter((path) => path.startsWith('files/')).map((path) => path.slice(6));
	assert.deepEqual(await files(), ['keep.log', 'migrations/1.sql', 'package.json', 'public/app.js', 'public/page.html', 'sub/public/key']);
	const chosen = await files({ include: ['dist', 'src/unreached.ts', '.env'], exclude: ['public', '*.log'] });
	assert.deepEqual(chosen, ['dist/old.js', 'migrations/1.sql', 'package.json', 'src/unreached.ts']);
});

test('executables stay executable, links to files become files', async () => {
	using app = testApp({ ...APP, 'bin/tool': '#!/bin/sh\n' });
	chmodSync(join(app.dir, 'bin/tool'), 0o755);
	const built = await app.build();
	assert.deepEqual(built.manifest.get('files/bin/tool'), [sha256('#!/bin/sh\n'), 10, true]);
	chmodSync(join(app.dir, 'bin/tool'), 0o644);
	assert.deepEqual((await app.build()).manifest.get('files/bin/tool'), [sha256('#!/bin/sh\n'), 10, false]);
});

test('a damaged state or cache is as good as none', async () => {
	using app = testApp(APP);
	const { artifact } = await app.build();
	const state = join(app.cacheDir, 'apps', readdirSync(join(app.cacheDir, 'apps'))[0]!, 'state');
	const whole = readFileSync(state);
	for (const size of [0, 1, 40, 71, whole.length >> 1, whole.length - 1]) {
		truncateSync(state, size);
		assert.equal((await app.build()).artifact, artifact, `cut to ${size}`);
		writeFileSync(state, whole);
	}
	for (let at = 9; at < whole.length; at += 37) {
		const flipped = Buffer.from(whole);
		flipped[at]! ^= 4;
		writeFileSync(state, flipped);
		assert.equal((await app.build()).artifact, artifact, `flipped at ${at}`);
	}
	for (const name of readdirSync(join(app.cacheDir, 'actions'))) {
		const path = join(app.cacheDir, 'actions', name);
		const bytes = readFileSync(path);
		bytes.fill(7, 0, bytes.length >> 1);
		writeFileSync(path, bytes);
	}
	rmSync(state);
	assert.equal((await app.build()).artifact, artifact);
});

test('blobs can be had even when the cache lost them', async () => {
	using app = testApp(APP);
	await app.build();
	rmSync(join(app.cacheDir, 'actions'), { recursive: true });
	const again = await app.build();
	assert.equal(again.modules.compiled, 0);
	for (const [path, entry] of again.manifest)
		if (!('link' in entry) && path !== 'index.json') assert.equal(sha256(again.blob(entry[0])), entry[0]);
});

test('what only a whole build makes, lost from the cache, makes the next build a whole one', async () => {
	using app = testApp(APP);
	await app.build();
	rmSync(join(app.cacheDir, 'actions'), { recursive: true });
	const again = await app.build();
	const index = [...again.manifest].flatMap(([path, entry]) => (path === 'index.json' && !('link' in entry) ? [entry[0]] : []))[0]!;
	assert.throws(() => again.blob(index), { code: 'changed_meanwhile' });
	const whole = await app.build();
	assert.equal(whole.artifact, again.artifact);
	assert.equal(sha256(whole.blob(index)), index);
});

const RUN = `
import { buildApp } from ${JSON.stringify(join(import.meta.dirname, 'build.ts'))};
const [dir, cacheDir] = process.argv.slice(1);
const built = await buildApp({ dir, cacheDir, nodeVersion: '24.21.0', config: { entry: 'src/server.ts' } });
process.stdout.write(built.artifact);
`;

function runBuild(app: TestApp) {
	return spawn(process.execPath, ['--input-type=module', '-e', RUN, app.dir, app.cacheDir], { stdio: ['ignore', 'pipe', 'inherit'] });
}

test('builds at the same time, and ones killed on the way, leave a sound cache', async () => {
	const many = Object.fromEntries(Array.from({ length: 60 }, (_, i) => [`src/m${i}.ts`, `export const v${i}: number = ${i};\n`]));
	const imports = Array.from({ length: 60 }, (_, i) => `import { v${i} } from './m${i}.ts';`).join('\n');
	using app = testApp({ ...many, 'src/server.ts': `${imports}\n${SERVER}console.log(v0);\n` });
	using twin = testApp({});
	cpSync(app.dir, twin.dir, { recursive: true });
	const { artifact } = await twin.build();
	const killed = Array.from({ length: 4 }, () => runBuild(app));
	const whole = [runBuild(app), runBuild(app)];
	const outputs = whole.map(async (child) => {
		let text = '';
		for await (const chunk of child.stdout) text += String(chunk);
		return text;
	});
	// One dies as soon as the first file of the cache shows, the others as their siblings end.
	for (const child of killed) child.once('spawn', () => child.kill('SIGKILL'));
	await Promise.all(killed.map((child) => once(child, 'close')));
	assert.deepEqual(await Promise.all(outputs), [artifact, artifact]);
	const after = await app.build();
	assert.equal(after.artifact, artifact);
	assert.equal(after.modules.compiled, 0);
	assert.ok(existsSync(join(app.cacheDir, 'actions')));
	assert.equal(treeOf(manifestOf(after.manifest)).root, artifact);
});

test('a cache that can not be written costs time, not the build', async () => {
	using app = testApp(APP);
	writeFileSync(app.cacheDir, 'a file where the folder should be');
	const built = await app.build();
	assert.equal(built.modules.compiled, 3);
	assert.match(built.warnings.join(), /the build cache in .* can't be written/);
	assert.equal(textOf(built, 'modules/src/mark.ts'), 'export const mark = "!";\n');
});

test('a name that other systems would spell otherwise is refused', async () => {
	using app = testApp({ ...APP, 'public/e\u0301.html': '' });
	const fault = await app.fault();
	assert.deepEqual([fault.code, /normal form C/.test(fault.message)], ['bad_path', true]);
});

test('a stray lockfile above the app is not its own', async () => {
	using app = testApp(
		{
			'package-lock.json': '{"lockfileVersion":3,"packages":{"":{}}}',
			'inner/package.json': '{"type":"module"}',
			'inner/src/server.ts': SERVER,
		},
		'inner',
	);
	const built = await app.build();
	assert.equal(built.vendor, null);
});

test('the key of what was compiled names the toolchain that is installed', () => {
	const manifest = JSON.parse(readFileSync(join(import.meta.dirname, '../../package.json'), 'utf8')) as {
		dependencies: Record<string, string>;
	};
	for (const tool of ['oxc-transform', 'oxc-parser']) assert.ok(TOOLCHAIN.includes(`${tool}@${manifest.dependencies[tool]} `), tool);
});
