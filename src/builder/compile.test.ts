import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { buildApp } from '#build/build.ts';
import { appConfig } from '#wire/config.ts';
import type { PlannedStep } from '#wire/steps.ts';
import { compile, type Compiling } from './compile.ts';
import { BuildFault } from './fault.ts';
import { directoryOf, type Tree } from './testbed.ts';

const CONFIG = appConfig.parse({ app: 'notes', entry: 'src/server.ts' });
const LOCK = {
	lockfileVersion: 3,
	packages: { '': { dependencies: { dep: '1.0.0' } }, 'node_modules/dep': { version: '1.0.0' } },
};
const SOURCE: Tree = {
	'package.json': '{"name":"notes","type":"module","dependencies":{"dep":"1.0.0"}}',
	'package-lock.json': JSON.stringify(LOCK),
	'src/server.ts': `import dep from 'dep';\nexport default { fetch: () => new Response(dep as string) };\n`,
	'public/index.html': '<p>hello</p>',
};
const MODULES: Tree = {
	'node_modules/.package-lock.json': '{}',
	'node_modules/dep/package.json': '{"name":"dep","version":"1.0.0","type":"module","main":"index.js"}',
	'node_modules/dep/index.js': "export default 'dep';\n",
	'node_modules/dep/bin/run': { run: '#!/bin/sh\n' },
	'node_modules/.bin/dep': { to: '../dep/bin/run' },
};

function compiling(t: TestContext, source: Tree, layers: Tree[] = [], more: Partial<Compiling> = {}): Compiling {
	const checkout = directoryOf(t, { ...source, '.git/mark': '' });
	return {
		checkout,
		directory: '',
		config: CONFIG,
		layers: layers.map((layer) => directoryOf(t, layer)),
		cacheDir: directoryOf(t),
		target: 'test',
		steps: [],
		outputs: [],
		...more,
	};
}

async function onLaptop(t: TestContext, tree: Tree, include: string[] = []) {
	const dir = directoryOf(t, tree);
	return buildApp({ dir, cacheDir: directoryOf(t), nodeVersion: process.versions.node, config: { entry: 'src/server.ts', include } });
}

test('a builder and a laptop make the same artifact and the same packages', async (t) => {
	const of = compiling(t, SOURCE, [MODULES]);
	const built = await compile(of);
	const there = await onLaptop(t, { ...SOURCE, ...MODULES });
	assert.equal(built.artifact, there.artifact);
	assert.equal(built.vendor?.root, there.vendor?.root);
	assert(!existsSync(join(of.checkout, 'node_modules')), 'the source is left as it was');
	for (const [, entry] of built.vendor!.manifest) if (Array.isArray(entry)) assert(built.vendor!.blob(entry[0]).length === entry[1]);
	const again = await compile(of);
	assert.deepEqual(again.modules, { compiled: 0, cached: 1 });
	assert.equal(again.artifact, built.artifact);
});

test("packages of a workspace are the source's own", async (t) => {
	const lock = {
		lockfileVersion: 3,
		packages: {
			'': { workspaces: ['lib', 'web'] },
			lib: { name: '@team/lib', version: '1.0.0' },
			web: { name: 'web', dependencies: { '@team/lib': '1.0.0' } },
			'node_modules/@team/lib': { resolved: 'lib', link: true },
			'node_modules/web': { resolved: 'web', link: true },
		},
	};
	const source: Tree = {
		'package.json': '{"name":"all","workspaces":["lib","web"]}',
		'package-lock.json': JSON.stringify(lock),
		'lib/package.json': '{"name":"@team/lib","version":"1.0.0","type":"module","exports":"./index.ts"}',
		'lib/index.ts': "export const word: string = 'lib';\n",
		'web/package.json': '{"name":"web","type":"module","dependencies":{"@team/lib":"1.0.0"}}',
		'web/src/server.ts': `import { word } from '@team/lib';\nexport default { fetch: () => new Response(word) };\n`,
	};
	const modules: Tree = {
		'node_modules/.package-lock.json': '{}',
		'node_modules/@team/lib': { to: '../../lib' },
		'node_modules/web': { to: '../web' },
	};
	const built = await compile(compiling(t, source, [modules], { directory: 'web' }));
	const dir = directoryOf(t, { ...source, ...modules, '.git/mark': '' });
	const config = { entry: 'src/server.ts' };
	const there = await buildApp({ dir: join(dir, 'web'), cacheDir: directoryOf(t), nodeVersion: process.versions.node, config });
	assert.equal(built.artifact, there.artifact);
	assert([...built.manifest.keys()].some((path) => path.endsWith('lib/index.ts')));
});

test('what steps made is compiled and shipped, ignored or not', async (t) => {
	const made = directoryOf(t, { 'public/app.css': 'p {}', 'src/word.ts': "export const word = 'made';\n" });
	const outputs = ['public/app.css', 'src/word.ts'].map((path) => ({
		path,
		at: join(made, path),
		target: null,
		executable: false,
		bytes: 1,
	}));
	const source: Tree = {
		'package.json': '{"name":"notes","type":"module"}',
		'.gitignore': 'public/\nsrc/word.ts\n',
		'src/server.ts': `import { word } from './word.ts';\nexport default { fetch: () => new Response(word) };\n`,
	};
	const step = { name: 'css', kind: 'build', outputs: ['public/**'] } as PlannedStep;
	const built = await compile(compiling(t, source, [], { steps: [step], outputs }));
	assert(built.manifest.has('files/public/app.css') && built.manifest.has('modules/src/word.ts'));
	const by = { ...source, 'public/app.css': 'p {}', 'src/word.ts': "export const word = 'made';\n" };
	assert.equal(built.artifact, (await onLaptop(t, by, ['public/**'])).artifact);
});

test('nothing but the source and its packages is read', async (t) => {
	const secret = directoryOf(t, {
		'package.json': '{"name":"@team/lib","type":"module"}',
		'key.pem': 'secret',
		'index.ts': 'export const a = 1;',
	});
	const lib = `../${secret.split('/').at(-1)}`;
	const lock = {
		lockfileVersion: 3,
		packages: {
			'': { dependencies: { '@team/lib': '1.0.0' } },
			[lib]: { name: '@team/lib', version: '1.0.0' },
			'node_modules/@team/lib': { resolved: lib, link: true },
		},
	};
	const source: Tree = {
		'package.json': '{"name":"notes","type":"module","dependencies":{"@team/lib":"1.0.0"}}',
		'package-lock.json': JSON.stringify(lock),
		'src/server.ts': 'export default { fetch: () => new Response() };\n',
	};
	await assert.rejects(
		compile(compiling(t, source, [{ 'node_modules/.package-lock.json': '{}' }])),
		(error) => error instanceof BuildFault && error.reason === 'bad_path',
	);
	const stolen = { ...MODULES, 'node_modules/dep/key': { to: `${secret}/key.pem` } };
	await assert.rejects(compile(compiling(t, SOURCE, [stolen])), (error) => error instanceof BuildFault && error.reason === 'outside');
	const linked = await compile(
		compiling(t, { ...SOURCE, 'package.json': '{"type":"module"}', 'public/x.html': { to: `${secret}/key.pem` } }, [MODULES]),
	);
	assert(!linked.manifest.has('files/public/x.html'));
});

test('a fault of the app is told with its place in the source', async (t) => {
	await assert.rejects(compile(compiling(t, { ...SOURCE, 'src/server.ts': 'export default {' }, [MODULES])), (error) => {
		assert(error instanceof BuildFault);
		assert.match(error.detail(), /src\/server\.ts:1/);
		assert.doesNotMatch(error.detail(), /jibe-builder-/);
		return true;
	});
});
