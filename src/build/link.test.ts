import assert from 'node:assert/strict';
import { symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { isUsage } from './build-error.ts';
import { indexOf, SERVER, testApp, textOf, type Files } from './testbed.ts';

const MODULES = '{"name":"app","type":"module"}';

test('specifiers are resolved as Node, TypeScript and bundlers agree', async () => {
	using app = testApp({
		'package.json':
			'{"name":"app","type":"module","imports":{"#env":{"node":"./src/env.node.ts","default":"./src/env.ts"},"#lib/*":"./src/lib/*.ts"}}',
		'tsconfig.json': `{
			// comments and trailing commas are fine
			"compilerOptions": { "paths": { "@app/*": ["./src/*"], },  },
		}`,
		'src/server.ts': `
import { a } from './a.js';
import { b } from './b';
import { folder } from './folder';
import { env } from '#env';
import { lib } from '#lib/one';
import { deep } from '@app/deep/er.js';
import data from './data.json' with { type: 'json' };
import page from './page.html';
import fs from 'fs';
import { join } from 'node:path';
import type { T } from './types.ts';
import { U, v } from './mixed.ts';
console.log(a, b, folder, env, lib, deep, data, page, fs, join, v as U as T);
${SERVER}`,
		'src/a.ts': 'export const a = 1;',
		'src/b.ts': 'export const b = 1;',
		'src/folder/index.ts': 'export const folder = 1;',
		'src/env.ts': 'export const env = 1;',
		'src/env.node.ts': 'export const env = 2;',
		'src/lib/one.ts': 'export const lib = 1;',
		'src/deep/er.ts': 'export const deep = 1;',
		'src/data.json': '{"a":1}',
		'src/page.html': '<p>',
		'src/mixed.ts': 'export interface U {}\nexport const v = 1;',
	});
	const built = await app.build();
	const { modules } = indexOf(built);
	assert.deepEqual(modules['src/server.ts']?.resolve, {
		'./a.js': 'src/a.ts',
		'./b': 'src/b.ts',
		'./folder': 'src/folder/index.ts',
		'#env': 'src/env.node.ts',
		'#lib/one': 'src/lib/one.ts',
		'@app/deep/er.js': 'src/deep/er.ts',
		'./data.json': 'src/data.json',
		'./page.html': 'src/page.html',
		fs: 'node:fs',
		'node:path': 'node:path',
		'./mixed.ts': 'src/mixed.ts',
	});
	assert.equal(modules['src/data.json']?.format, 'json');
	assert.equal(modules['src/page.html']?.format, 'text');
	assert.equal(textOf(built, 'modules/src/page.html'), '<p>');
	assert.ok(built.manifest.has('files/src/data.json'), 'data is a real file too');
	assert.equal(modules['src/env.ts'], undefined);
});

test('a tsconfig that changes makes everything be looked at again', async () => {
	using app = testApp({
		'tsconfig.json': '{"extends":"./base.json"}',
		'base.json': '{"compilerOptions":{"paths":{"~":["./src/one.ts"]}}}',
		'src/server.ts': `import { x } from '~';\nconsole.log(x);\n${SERVER}`,
		'src/one.ts': 'export const x = 1;',
		'src/two.ts': 'export const x = 2;',
	});
	assert.equal(indexOf(await app.build()).modules['src/server.ts']?.resolve['~'], 'src/one.ts');
	app.write({ 'base.json': '{"compilerOptions":{"paths":{"~":["./src/two.ts"]}}}' });
	assert.equal(indexOf(await app.build()).modules['src/server.ts']?.resolve['~'], 'src/two.ts');
});

test('dynamic imports: a literal, a template, a computed name', async () => {
	using app = testApp({
		'src/server.ts': `
const name = process.argv[2];
await import('./late.ts');
await import(\`./routes/\${name}.js\`);
await import('./plugins/' + name);
${SERVER}`,
		'src/late.ts': 'export {};',
		'src/routes/a.ts': 'export {};',
		'src/routes/b.ts': 'export {};',
		'src/plugins/p.ts': 'export {};',
		'src/other.ts': 'export {};',
	});
	const index = indexOf(await app.build());
	assert.deepEqual(index.modules['src/server.ts']?.resolve, {
		'./late.ts': 'src/late.ts',
		'./routes/a.js': 'src/routes/a.ts',
		'./routes/b.js': 'src/routes/b.ts',
		'./plugins/p': 'src/plugins/p.ts',
		'./plugins/p.js': 'src/plugins/p.ts',
		'./plugins/p.ts': 'src/plugins/p.ts',
	});
	assert.equal(index.dynamic, false);
	assert.equal(index.modules['src/other.ts'], undefined);
	app.write({ 'src/late.ts': 'export const load = (name: string) => import(name);', 'src/broken.ts': 'export const = ;' });
	const all = await app.build();
	assert.equal(indexOf(all).dynamic, true);
	assert.equal(indexOf(all).materialise, true);
	assert.ok(indexOf(all).modules['src/other.ts']);
	assert.match(all.warnings.join('\n'), /late\.ts has an import\(\) of a computed name/);
	assert.match(all.warnings.join('\n'), /broken\.ts is left out/);
});

test('files named by URL are shipped, workers are compiled and become real files', async () => {
	using app = testApp({
		'.gitignore': 'generated/\n',
		'src/server.ts': `
import { Worker } from 'node:worker_threads';
import { made } from './generated/code.ts';
new Worker(new URL('./worker.ts', import.meta.url));
console.log(new URL('./generated/table.bin', import.meta.url), new URL('./folder', import.meta.url), made);
${SERVER}`,
		'src/worker.ts': `import './used-by-worker.ts';`,
		'src/used-by-worker.ts': 'export {};',
		'src/generated/table.bin': 'x',
		'src/generated/code.ts': 'export const made = 1;',
	});
	const built = await app.build();
	const index = indexOf(built);
	assert.equal(index.materialise, true);
	assert.ok(index.modules['src/used-by-worker.ts']);
	assert.ok(built.manifest.has('files/src/generated/table.bin'));
	assert.match(built.warnings.join('\n'), /src\/generated\/code\.ts is ignored by \.gitignore, but imported/);
	app.write({ 'src/generated/code.ts': 'export const made = 2;' });
	assert.match(textOf(await app.build(), 'modules/src/generated/code.ts'), /made = 2/);
});

test('CommonJS modules keep their format, and their require() is resolved', async () => {
	using app = testApp({
		'package.json': '{"name":"app"}',
		'src/server.ts': `import old from './old.cjs';\nimport { y } from './typed.cts';\nimport z from './plain.js';\nconsole.log(old, y, z);\n${SERVER}`,
		'src/old.cjs': `const x = require('./data.json');\nconst os = require('os');\nmodule.exports = { x, os };\n`,
		'src/data.json': '{}',
		'src/typed.cts': `import fs = require('node:fs');\nconst y: number = fs.constants.O_RDONLY;\nexport = { y };\n`,
		'src/plain.js': `module.exports = 1;\n`,
	});
	const { modules } = indexOf(await app.build());
	assert.deepEqual(modules['src/old.cjs'], { format: 'commonjs', resolve: { './data.json': 'src/data.json', os: 'node:os' } });
	assert.equal(modules['src/typed.cts']?.format, 'commonjs');
	assert.equal(modules['src/plain.js']?.format, 'commonjs');
	assert.equal(modules['src/server.ts']?.format, 'module');
});

test('packages of the same workspace are built from their source, inside and outside the app', async () => {
	using app = testApp(
		{
			'package.json': '{"name":"root","workspaces":["apps/*","packages/*"]}',
			'package-lock.json': JSON.stringify({
				lockfileVersion: 3,
				packages: {
					'': { name: 'root', workspaces: ['apps/*', 'packages/*'] },
					'apps/api': { name: 'api', dependencies: { '@acme/lib': '*' } },
					'packages/lib': { name: '@acme/lib', dependencies: { dep: '1.0.0' } },
					'node_modules/@acme/lib': { resolved: 'packages/lib', link: true },
					'node_modules/api': { resolved: 'apps/api', link: true },
					'node_modules/dep': { version: '1.0.0' },
				},
			}),
			'.git/HEAD': '',
			'apps/api/package.json': '{"name":"api","type":"module","dependencies":{"@acme/lib":"*"}}',
			'apps/api/src/server.ts': `import { lib } from '@acme/lib';\nimport { sub } from '@acme/lib/sub';\nconsole.log(lib, sub);\n${SERVER}`,
			'packages/lib/package.json': '{"name":"@acme/lib","type":"module","exports":{".":"./dist/index.js","./sub":"./src/sub.ts"}}',
			'packages/lib/src/index.ts': `import dep from 'dep';\nexport const lib: unknown = dep;\n`,
			'packages/lib/src/sub.ts': `export const sub: number = 1;\n`,
			'node_modules/dep/package.json': '{"name":"dep","version":"1.0.0","main":"main.js"}',
			'node_modules/dep/main.js': 'module.exports = 1;',
			'node_modules/@acme/.keep': '',
		},
		'apps/api',
	);
	symlinkSync('../../packages/lib', join(app.dir, '../../node_modules/@acme/lib'));
	const built = await app.build();
	const { modules } = indexOf(built);
	assert.deepEqual(modules['src/server.ts']?.resolve, {
		'@acme/lib': '.workspaces/packages/lib/src/index.ts',
		'@acme/lib/sub': '.workspaces/packages/lib/src/sub.ts',
	});
	assert.deepEqual(modules['.workspaces/packages/lib/src/index.ts']?.resolve, { dep: 'vendor:dep/main.js' });
	assert.equal(built.modules.compiled, 3);
	app.write({ 'packages/lib/src/sub.ts': 'export const sub: number = 2;\n' });
	const edited = await app.build();
	assert.deepEqual(edited.modules, { compiled: 1, cached: 2 });
	assert.match(textOf(edited, 'modules/.workspaces/packages/lib/src/sub.ts'), /sub = 2/);
});

async function faultOf(files: Files, config = {}) {
	using app = testApp({ 'package.json': MODULES, ...files });
	const error = await app.fault(config);
	return {
		code: error.code,
		at: error.file === null ? null : `${error.file}:${error.line}:${error.column}`,
		usage: isUsage(error.code),
		text: error.describe(),
	};
}

test('a syntax error names file, line, column and shows the place', async () => {
	const fault = await faultOf({
		'src/server.ts': `import './bad.ts';\n${SERVER}`,
		'src/bad.ts': 'export const a = 1;\n\tconst b: number = ;\n',
	});
	assert.deepEqual([fault.code, fault.at, fault.usage], ['syntax', 'src/bad.ts:2:20', false]);
	assert.match(fault.text, /> 2 \| {3}const b: number = ;\n {4}\| {21}\^/);
	assert.equal(
		(await faultOf({ 'src/server.ts': `import x from './x.json';\nconsole.log(x);\n${SERVER}`, 'src/x.json': '{' })).code,
		'syntax',
	);
});

test('an import that leads nowhere names itself and its place', async () => {
	const relative = await faultOf({
		'src/server.ts': `import { a } from './a.ts';\nimport { x } from './missing.ts';\nconsole.log(a, x);\n${SERVER}`,
		'src/a.ts': 'export const a = 1;',
	});
	assert.deepEqual([relative.code, relative.at], ['unresolved_import', 'src/server.ts:2:19']);
	const bare = await faultOf({ 'src/server.ts': `import x from 'left-pad';\nconsole.log(x);\n${SERVER}` });
	assert.equal(bare.code, 'unresolved_import');
	assert.match(bare.text, /npm install left-pad/);
	const outside = await faultOf({ 'src/server.ts': `import x from '../../other/x.ts';\nconsole.log(x);\n${SERVER}` });
	assert.match(outside.text, /outside the app's folder/);
});

test('packages without a lockfile, or not installed, are usage errors that say what to run', async () => {
	const declared = '{"name":"app","type":"module","dependencies":{"dep":"1.0.0"}}';
	const server = `import dep from 'dep';\nconsole.log(dep);\n${SERVER}`;
	const installed = { 'node_modules/dep/package.json': '{"name":"dep","version":"1.0.0"}', 'node_modules/dep/index.js': '' };
	const none = await faultOf({ 'package.json': declared, 'src/server.ts': server, ...installed });
	assert.deepEqual([none.code, none.usage], ['no_lockfile', true]);
	const lock = { lockfileVersion: 3, packages: { '': { dependencies: { dep: '1.0.0' } }, 'node_modules/dep': { version: '1.0.0' } } };
	const missing = await faultOf({ 'package.json': declared, 'package-lock.json': JSON.stringify(lock), 'src/server.ts': server });
	assert.deepEqual([missing.code, missing.usage], ['not_installed', true]);
	assert.match(missing.text, /npm ci/);
	const dev = await faultOf({
		'package.json': '{"name":"app","type":"module","devDependencies":{"dep":"1.0.0"}}',
		'package-lock.json': JSON.stringify({
			lockfileVersion: 3,
			packages: { '': { devDependencies: { dep: '1.0.0' } }, 'node_modules/dep': { version: '1.0.0', dev: true } },
		}),
		'src/server.ts': server,
		...installed,
	});
	assert.match(dev.text, /only a devDependency/);
});

test('types and const enums across files, and names that are not there, are refused with the reason', async () => {
	const reexport = await faultOf({
		'src/server.ts': `import { v } from './barrel.ts';\nconsole.log(v);\n${SERVER}`,
		'src/barrel.ts': `export { v, Shape } from './shapes.ts';\n`,
		'src/shapes.ts': `export interface Shape { x: number }\nexport const v = 1;\n`,
	});
	assert.deepEqual([reexport.code, reexport.at], ['type_export', 'src/barrel.ts:1:13']);
	assert.match(reexport.text, /type Shape/);
	const constEnum = await faultOf({
		'src/server.ts': `import { Level } from './level.ts';\nconsole.log(Level.High);\n${SERVER}`,
		'src/level.ts': 'export const enum Level { High = 1 }',
	});
	assert.deepEqual([constEnum.code, constEnum.at], ['const_enum', 'src/server.ts:1:10']);
	const typo = await faultOf({
		'src/server.ts': `import { vv } from './v.ts';\nconsole.log(vv);\n${SERVER}`,
		'src/v.ts': `export * from './w.ts';`,
		'src/w.ts': 'export const v = 1;',
	});
	assert.deepEqual([typo.code, typo.at], ['missing_export', 'src/server.ts:1:10']);
	const json = await faultOf({
		'src/server.ts': `import { version } from './v.json';\nconsole.log(version);\n${SERVER}`,
		'src/v.json': '{"version":1}',
	});
	assert.match(json.text, /only a default export/);
});

test('an import of a name through export *, a namespace, or of a type that is elided, is fine', async () => {
	using app = testApp({
		'src/server.ts': `import { v, Shape } from './a.ts';\nimport * as all from './a.ts';\nconst s: Shape = { v };\nconsole.log(s, all);\n${SERVER}`,
		'src/a.ts': `export * from './b.ts';\nexport type { Shape } from './b.ts';\n`,
		'src/b.ts': `export * from './a.ts';\nexport interface Shape { v: number }\nexport const v = 1;\n`,
	});
	assert.equal((await app.build()).modules.compiled, 3);
});

test('require() of a module that awaits at its top level is refused', async () => {
	const fault = await faultOf({
		'src/server.ts': `import { createRequire } from 'node:module';\nconst require = createRequire(import.meta.url);\nconsole.log(require('./outer.ts'));\n${SERVER}`,
		'src/outer.ts': `export { x } from './inner.ts';\nexport const f = async () => { await 0; };\n`,
		'src/inner.ts': `export const x = await Promise.resolve(1);\n`,
	});
	assert.deepEqual([fault.code, fault.at], ['require_async', 'src/server.ts:3:21']);
	assert.match(fault.text, /src\/inner\.ts awaits/);
});

test('an entry that can not answer is refused', async () => {
	const codes = async (source: string) => (await faultOf({ 'src/server.ts': source })).code;
	assert.equal(await codes(`export const app = 1;\n`), 'no_fetch');
	assert.equal(await codes(`export default { handle() {} };\n`), 'no_fetch');
	assert.equal(await codes(`const app = { listen: 3000 };\nexport default app;\n`), 'no_fetch');
	assert.equal(await codes(`export default 'hello';\n`), 'no_fetch');
	assert.equal(await codes(`import { createServer } from 'node:http';\ncreateServer().listen(3000);\n`), 'app_listens');
	assert.equal((await faultOf({ 'src/x.ts': '' })).code, 'no_entry');
	for (const good of [
		SERVER,
		'export default () => new Response();',
		'const app = {};\napp.fetch = () => new Response();\nexport default app;',
		'class App { fetch() {} }\nexport default new App();',
		'const fetch = () => new Response();\nexport { fetch as default };',
	]) {
		using app = testApp({ 'src/server.ts': good });
		assert.equal((await app.build()).modules.compiled, 1, good);
	}
});

test('an entry that loses its fetch in an edit is refused too', async () => {
	using app = testApp({ 'src/server.ts': 'export default { fetch() {} };' });
	await app.build();
	app.write({ 'src/server.ts': 'export default { other() {} };' });
	assert.equal((await app.fault()).code, 'no_fetch');
});

test('what this Node runs by itself is left as it is; what it can not parse is refused', async () => {
	using app = testApp({
		'src/server.ts': `class R { [Symbol.dispose]() {} }\nexport const f = () => { using r = new R(); return r; };\n${SERVER}`,
	});
	assert.match(textOf(await app.build(), 'modules/src/server.ts'), /using r = new R\(\)/);
	const decorated = await faultOf({
		'src/server.ts': `const log = (value: unknown) => value as never;\n\n@log\nclass A {}\nconsole.log(A);\n${SERVER}`,
	});
	assert.equal(decorated.code, 'unsupported');
	assert.equal((await faultOf({ 'src/server.ts': `export class A { accessor x = 1; }\n${SERVER}` })).code, 'unsupported');
	using mail = testApp({ 'src/server.ts': `export const css = \`\n @media print {}\n\`;\n${SERVER}` });
	assert.equal((await mail.build()).modules.compiled, 1);
});
