import assert from 'node:assert/strict';
import { cpSync, mkdirSync, readdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { sha256 } from '#digest/digest.ts';
import { treeOf } from '#store/manifest.ts';
import { parseYaml } from './lock-pnpm.ts';
import { parseYarnLock } from './lock-yarn.ts';
import { indexOf, SERVER, testApp, type Files } from './testbed.ts';

const LOCK = {
	lockfileVersion: 3,
	packages: {
		'': { dependencies: { a: '^1.0.0', b: '1.0.0' }, devDependencies: { tool: '1.0.0' } },
		'node_modules/a': { version: '1.2.0', dependencies: { c: '^1.0.0' }, optionalDependencies: { absent: '1.0.0' } },
		'node_modules/absent': { version: '1.0.0', optional: true },
		'node_modules/b': { version: '1.0.0', dependencies: { c: '^2.0.0' }, peerDependencies: { a: '*' } },
		'node_modules/b/node_modules/c': { version: '2.0.0' },
		'node_modules/c': { version: '1.0.0' },
		'node_modules/tool': { version: '1.0.0', dev: true },
	},
};

function packageFiles(place: string, name: string, version: string, more: Files = {}): Files {
	const manifest = {
		name,
		version,
		exports: { '.': { import: './index.mjs', require: './index.cjs', types: './index.d.ts' }, './sub': './sub.js' },
	};
	const files: Files = {
		'package.json': JSON.stringify(manifest),
		'index.mjs': `export default '${name}@${version}';\n//# sourceMappingURL=index.mjs.map\n`,
		'index.mjs.map': '{}',
		'index.cjs': `module.exports = '${name}@${version}';\n`,
		'index.d.ts': 'declare const x: string; export default x;\n',
		'sub.js': '',
		LICENSE: 'MIT',
		...more,
	};
	return Object.fromEntries(Object.entries(files).map(([path, text]) => [`node_modules/${place}/${path}`, text]));
}

const SOURCE: Files = {
	'package.json': '{"name":"app","type":"module","dependencies":{"a":"^1.0.0","b":"1.0.0"},"devDependencies":{"tool":"1.0.0"}}',
	'package-lock.json': JSON.stringify(LOCK),
	'src/server.ts': `import a from 'a';\nimport b from 'b';\nimport 'b/sub';\nconsole.log(a, b);\n${SERVER}`,
};
const INSTALLED: Files = {
	...packageFiles('a', 'a', '1.2.0'),
	...packageFiles('b', 'b', '1.0.0'),
	...packageFiles('b/node_modules/c', 'c', '2.0.0'),
	...packageFiles('c', 'c', '1.0.0'),
	...packageFiles('tool', 'tool', '1.0.0'),
	'node_modules/.package-lock.json': '{}',
};

test('the vendor tree is the production closure, without declarations and maps', async () => {
	using app = testApp({ ...SOURCE, ...INSTALLED });
	const built = await app.build();
	const paths = [...built.vendor!.manifest.keys()];
	const expected = ['a', 'b', 'b/node_modules/c', 'c'].flatMap((at) =>
		['LICENSE', 'index.cjs', 'index.mjs', 'package.json', 'sub.js'].map((file) => `node_modules/${at}/${file}`),
	);
	assert.deepEqual(paths, [...expected, 'vendor.json'].sort());
	assert.equal(treeOf(built.vendor!.manifest).root, built.vendor!.root);
	for (const entry of built.vendor!.manifest.values()) assert.ok('link' in entry || sha256(built.vendor!.blob(entry[0])) === entry[0]);
	assert.deepEqual(indexOf(built).modules['src/server.ts']?.resolve, {
		a: 'vendor:a/index.mjs',
		b: 'vendor:b/index.mjs',
		'b/sub': 'vendor:b/sub.js',
	});
	assert.deepEqual(indexOf(built).vendor, ['a/index.mjs', 'b/index.mjs', 'b/sub.js']);
	const about = JSON.parse(built.vendor!.blob(entryDigest(built, 'vendor.json')).toString()) as { packages: object; platform: unknown };
	assert.deepEqual(about.packages, {
		'node_modules/a': 'a@1.2.0',
		'node_modules/b': 'b@1.0.0',
		'node_modules/b/node_modules/c': 'c@2.0.0',
		'node_modules/c': 'c@1.0.0',
	});
	assert.equal(about.platform, null);
});

function entryDigest(built: Awaited<ReturnType<ReturnType<typeof testApp>['build']>>, path: string) {
	const entry = built.vendor!.manifest.get(path);
	assert.ok(entry && !('link' in entry));
	return entry[0];
}

test('it is the same whether packages are copied, or linked from elsewhere', async () => {
	using app = testApp({ ...SOURCE, ...INSTALLED });
	using linked = testApp({ ...SOURCE, 'node_modules/.package-lock.json': '{"other":1}' });
	cpSync(join(app.dir, 'node_modules'), join(linked.dir, '../store'), { recursive: true });
	for (const name of ['a', 'b', 'c']) symlinkSync(join(linked.dir, '../store', name), join(linked.dir, 'node_modules', name));
	const [one, other] = [await app.build(), await linked.build()];
	assert.equal(other.vendor!.root, one.vendor!.root);
	assert.equal(other.artifact, one.artifact);
});

test('a target knows the vendor tree it accepted with the last artifact', async () => {
	using app = testApp({ ...SOURCE, ...INSTALLED });
	const first = await app.build();
	assert.equal(first.vendor!.known, false);
	first.markAccepted();
	assert.equal((await app.build()).vendor!.known, true);
	app.write({ 'src/server.ts': `import a from 'a';\nconsole.log(a, 1);\n${SERVER}` });
	const second = await app.build();
	assert.equal(second.vendor!.known, true);
	assert.equal(second.vendor!.root, first.vendor!.root, 'what is imported does not decide what is there');
});

test('installing anew is noticed; so is a patch without a trace in the lockfile', async () => {
	using app = testApp({ ...SOURCE, ...INSTALLED });
	const first = await app.build();
	app.write({ 'node_modules/a/index.mjs': 'export default "patched";', 'patches/a+1.2.0.patch': 'diff' });
	const patched = await app.build();
	assert.notEqual(patched.vendor!.root, first.vendor!.root);
	app.write({ 'node_modules/a/index.mjs': 'export default "again";', 'node_modules/.package-lock.json': '{"x":12345}' });
	assert.notEqual((await app.build()).vendor!.root, patched.vendor!.root);
});

test('a patch that is applied after the first build, or taken back, is noticed', async () => {
	using app = testApp({
		...SOURCE,
		...INSTALLED,
		'patches/a+1.2.0.patch': 'diff --git a/node_modules/a/index.mjs b/node_modules/a/index.mjs\n',
	});
	const first = await app.build();
	app.write({ 'node_modules/a/index.mjs': 'export default "patched";' });
	assert.notEqual((await app.build()).vendor!.root, first.vendor!.root);
});

test('an addon that is built only after the first build is noticed', async () => {
	using app = testApp({ ...SOURCE, ...INSTALLED, 'node_modules/c/binding.gyp': '{}' });
	const first = await app.build();
	assert.equal((await app.build()).vendor!.root, first.vendor!.root);
	// As `npm rebuild` does.
	app.write({ 'node_modules/c/build/Release/c.node': 'ELF' });
	const second = await app.build();
	assert.ok(second.vendor!.manifest.has('node_modules/c/build/Release/c.node'));
	app.write({ 'node_modules/c/build/Release/d.node': 'ELF' });
	assert.ok((await app.build()).vendor!.manifest.has('node_modules/c/build/Release/d.node'));
});

test('packages with native code carry their platform', async () => {
	using app = testApp({
		...SOURCE,
		...INSTALLED,
		'node_modules/c/build/Release/c.node': 'ELF',
		'node_modules/c/build/Release/obj.target/c.o': 'x',
	});
	const { vendor } = await app.build();
	assert.ok(vendor!.manifest.has('node_modules/c/build/Release/c.node'));
	assert.ok(!vendor!.manifest.has('node_modules/c/build/Release/obj.target/c.o'));
	const entry = vendor!.manifest.get('vendor.json')!;
	assert.ok(!('link' in entry));
	const { platform } = JSON.parse(vendor!.blob(entry[0]).toString()) as { platform: { os: string; cpu: string } };
	assert.deepEqual([platform.os, platform.cpu], [process.platform, process.arch]);
	// As `npm rebuild` leaves it: another addon, the same lockfile, nothing installed.
	app.write({ 'node_modules/c/build/Release/c.node': 'ELF for another Node' });
	assert.notEqual((await app.build()).vendor!.root, vendor!.root);
});

test('a package that reads declarations keeps them', async () => {
	using app = testApp({ ...SOURCE, ...INSTALLED, 'node_modules/c/sub.js': 'read("lib.d.ts")' });
	const { vendor } = await app.build();
	assert.ok(vendor!.manifest.has('node_modules/c/index.d.ts'));
	assert.ok(!vendor!.manifest.has('node_modules/a/index.d.ts'));
});

test('TypeScript in a package is kept only where something could open it', async () => {
	const sources = { 'node_modules/a/src/a.ts': 'x', 'node_modules/b/src/b.ts': 'x', 'node_modules/b/sub.js': 'require("fs")' };
	using app = testApp({ ...SOURCE, ...INSTALLED, ...sources });
	const { vendor } = await app.build();
	assert.ok(vendor!.manifest.has('node_modules/b/src/b.ts'));
	assert.ok(!vendor!.manifest.has('node_modules/a/src/a.ts'));
});

test('a file that changes after the scan is not sent under its old digest', async () => {
	using app = testApp({ ...SOURCE, ...INSTALLED });
	const built = await app.build();
	const digest = entryDigest(built, 'node_modules/a/sub.js');
	for (const at of ['a', 'b', 'c', 'b/node_modules/c']) writeFileSync(join(app.dir, 'node_modules', at, 'sub.js'), 'changed');
	assert.throws(() => built.vendor!.blob(digest), { code: 'changed_meanwhile' });
});

test('the wrong version on disk, a stale lockfile, or one of an old format are refused', async () => {
	using wrong = testApp({ ...SOURCE, ...INSTALLED, ...packageFiles('c', 'c', '1.0.1') });
	const mismatch = await wrong.fault();
	assert.deepEqual([mismatch.code, mismatch.message], ['not_installed', 'c is installed in version 1.0.1, but the lockfile says 1.0.0']);
	assert.match(mismatch.describe(), /npm ci/);
	using stale = testApp({
		...SOURCE,
		...INSTALLED,
		'package.json': '{"name":"app","type":"module","dependencies":{"a":"^2.0.0","b":"1.0.0"}}',
	});
	assert.equal((await stale.fault()).code, 'bad_lockfile');
	using old = testApp({ ...SOURCE, ...INSTALLED, 'package-lock.json': '{"lockfileVersion":1,"dependencies":{}}' });
	assert.match((await old.fault()).describe(), /lockfileVersion 1/);
	using broken = testApp({ ...SOURCE, ...INSTALLED, 'package-lock.json': '{' });
	assert.equal((await broken.fault()).code, 'bad_lockfile');
});

test('the vendor tree can be had again when the cache lost it', async () => {
	using app = testApp({ ...SOURCE, ...INSTALLED });
	await app.build();
	rmSync(join(app.cacheDir, 'vendor'), { recursive: true });
	const again = await app.build();
	assert.equal(treeOf(again.vendor!.manifest).root, again.vendor!.root);
});

const PNPM_LOCK = `lockfileVersion: '9.0'

settings:
  autoInstallPeers: true

importers:

  .:
    dependencies:
      a:
        specifier: ^1.0.0
        version: 1.2.0
      b:
        specifier: 1.0.0
        version: 1.0.0(a@1.2.0)
    devDependencies:
      tool:
        specifier: 1.0.0
        version: 1.0.0

packages:

  a@1.2.0:
    resolution: {integrity: sha512-x==}

snapshots:

  a@1.2.0:
    dependencies:
      c: 1.0.0

  b@1.0.0(a@1.2.0):
    dependencies:
      a: 1.2.0
      c: 2.0.0

  c@1.0.0: {}

  c@2.0.0: {}

  tool@1.0.0: {}
`;

test('pnpm: the tree is one folder a package, with links to what each depends on', async () => {
	const { 'package-lock.json': _npm, ...source } = SOURCE;
	using app = testApp({ ...source, 'pnpm-lock.yaml': PNPM_LOCK, 'node_modules/.modules.yaml': 'x' });
	const store = join(app.dir, 'node_modules/.pnpm');
	using packages = testApp(INSTALLED);
	const put = (folder: string, from: string, name: string, links: Record<string, string>) => {
		mkdirSync(join(store, folder, 'node_modules'), { recursive: true });
		cpSync(join(packages.dir, 'node_modules', from), join(store, folder, 'node_modules', name), { recursive: true });
		for (const [link, target] of Object.entries(links))
			symlinkSync(`../../${target}/node_modules/${link}`, join(store, folder, 'node_modules', link));
	};
	put('c@1.0.0', 'c', 'c', {});
	put('c@2.0.0', 'b/node_modules/c', 'c', {});
	put('a@1.2.0', 'a', 'a', { c: 'c@1.0.0' });
	rmSync(join(packages.dir, 'node_modules/b/node_modules'), { recursive: true });
	put('b@1.0.0_a@1.2.0', 'b', 'b', { a: 'a@1.2.0', c: 'c@2.0.0' });
	for (const [name, folder] of [['a', 'a@1.2.0'], ['b', 'b@1.0.0_a@1.2.0']] as const) symlinkSync(`.pnpm/${folder}/node_modules/${name}`, join(app.dir, 'node_modules', name)); // prettier-ignore
	const built = await app.build();
	const links = [...built.vendor!.manifest].flatMap(([path, entry]) => ('link' in entry ? [[path, entry.link]] : []));
	const b = readdirName([...built.vendor!.manifest.keys()], 'b@1.0.0');
	assert.deepEqual(links, [
		['node_modules/.store/a@1.2.0/node_modules/c', '../../c@1.0.0/node_modules/c'],
		[`node_modules/.store/${b}/node_modules/a`, '../../a@1.2.0/node_modules/a'],
		[`node_modules/.store/${b}/node_modules/c`, '../../c@2.0.0/node_modules/c'],
		['node_modules/a', '.store/a@1.2.0/node_modules/a'],
		['node_modules/b', `.store/${b}/node_modules/b`],
	]);
	assert.equal(indexOf(built).modules['src/server.ts']?.resolve['a'], 'vendor:.store/a@1.2.0/node_modules/a/index.mjs');
	renameSync(join(store, 'c@1.0.0'), join(store, 'gone'));
	app.write({ 'node_modules/.modules.yaml': 'yy' });
	assert.equal((await app.fault()).code, 'not_installed');
	assert.ok(readdirSync(store).length > 0);
});

function readdirName(paths: string[], prefix: string): string {
	return paths.map((path) => path.split('/')[2] ?? '').find((name) => name.startsWith(prefix)) ?? assert.fail(`no ${prefix}`);
}

test('yarn 1: versions come from the lockfile, places from the disk', async () => {
	const { 'package-lock.json': _npm, ...source } = SOURCE;
	const lock = `# yarn lockfile v1\n\n\na@^1.0.0:\n  version "1.2.0"\n  dependencies:\n    c "^1.0.0"\n\nb@1.0.0:\n  version "1.0.0"\n  dependencies:\n    c "^2.0.0"\n\n"c@^1.0.0", c@1:\n  version "1.0.0"\n\nc@^2.0.0:\n  version "2.0.0"\n`;
	using app = testApp({ ...source, ...INSTALLED, 'yarn.lock': lock });
	const built = await app.build();
	assert.ok(built.vendor!.manifest.has('node_modules/.store/c@2.0.0/node_modules/c/index.mjs'));
	assert.equal(indexOf(built).modules['src/server.ts']?.resolve['b'], 'vendor:.store/b@1.0.0/node_modules/b/index.mjs');
	assert.equal(parseYarnLock(lock).get('c@1')?.version, '1.0.0');
	assert.deepEqual(parseYaml(`a:\n  'b@1(c@2)':\n    d: {}\n    e: "x"\n  f: 1\ng: {}\n`), {
		a: { 'b@1(c@2)': { d: {}, e: 'x' }, f: '1' },
		g: {},
	});
});
