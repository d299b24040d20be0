import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import fc from 'fast-check';
import { ConfigError, configFor, configJsonSchema, parseConfigFile } from './config-file.ts';
import { appConfig } from './config.ts';

function problems(text: string): string[] {
	try {
		parseConfigFile(text, 'jibe.json');
	} catch (error) {
		assert(error instanceof ConfigError);
		assert.equal(error.code, 'bad_config');
		return error.message.split('\n');
	}
	return [];
}

test('fills in every default', () => {
	const config = configFor(parseConfigFile('{ "app": "notes", "entry": "./src/server.ts" }', 'jibe.json'));
	assert.equal(config.entry, 'src/server.ts');
	assert.equal(config.runtime, 'fetch');
	assert.equal(config.regions, 'all');
	assert.equal(config.instances, 1);
	assert.equal(config.memory, 512);
	assert.deepEqual(config.strategy, { type: 'walk', watch: '5m' });
	assert.equal(config.health, undefined);
	assert.deepEqual(appConfig.parse(config), config);
});

test('an environment keeps what the top says unless it says otherwise', () => {
	const result = parseConfigFile(
		`{
			"app": "notes",
			"entry": "src/server.ts",
			"instances": 3,
			"warm": "off",
			"regions": ["fra", "ams"],
			"env": { "LOG_LEVEL": "info", "COLOUR": "red" },
			"health": { "path": "/healthz", "timeout": "1s" },
			"strategy": { "type": "canary", "ramp": [10, 100] },
			"environments": {
				"staging": { "regions": ["fra"], "env": { "LOG_LEVEL": "debug" }, "health": { "timeout": "5s" }, "strategy": { "type": "walk" } },
				"empty": {},
			},
		}`,
		'jibe.json',
	);
	assert.deepEqual(result.environments, ['staging', 'empty']);
	const staging = configFor(result, 'staging');
	assert.equal(staging.instances, 3);
	assert.equal(staging.warm, 'off');
	assert.deepEqual(staging.regions, ['fra']);
	assert.deepEqual(staging.env, { LOG_LEVEL: 'debug', COLOUR: 'red' });
	assert.deepEqual(staging.health, { path: '/healthz', timeout: '5s' });
	assert.deepEqual(staging.strategy, { type: 'walk', watch: '5m' });
	assert.deepEqual(configFor(result, 'empty'), configFor(result));
	assert.deepEqual(configFor(result, 'not-named'), configFor(result, 'production'));
});

test('production may be overridden like any other environment', () => {
	const result = parseConfigFile('{ "app": "a", "entry": "a.ts", "environments": { "production": { "instances": 2 } } }', 'jibe.json');
	assert.equal(configFor(result).instances, 2);
	assert.equal(configFor(result, 'staging').instances, 1);
});

test('what was detected stands in for what is left out', () => {
	assert.equal(configFor(parseConfigFile('{ "app": "a" }', 'f', { entry: 'src/index.ts' })).entry, 'src/index.ts');
	assert.equal(configFor(parseConfigFile('{ "app": "a", "entry": "b.ts" }', 'f', { entry: 'src/index.ts' })).entry, 'b.ts');
});

test('an unknown key is named with its place and the nearest known key', () => {
	assert.deepEqual(problems('{\n\t"app": "a",\n\t"entry": "a.ts",\n\t"instnaces": 2\n}'), [
		'jibe.json:4:2: unknown key "instnaces"; did you mean "instances"?',
	]);
	assert.deepEqual(problems('{ "app": "a", "entry": "a.ts",\n"health": { "pth": "/" } }'), [
		'jibe.json:2:13: unknown key "pth" in "health"; did you mean "path"?',
	]);
	assert.deepEqual(problems('{ "app": "a", "entry": "a.ts",\n"strategy": { "type": "walk", "wach": "1m" } }'), [
		'jibe.json:2:31: unknown key "wach" in "strategy"; did you mean "watch"?',
	]);
	assert.deepEqual(problems('{ "app": "a", "entry": "a.ts", "environments": { "staging": {\n "instances": 1,\n "heath": {} } } }'), [
		'jibe.json:3:2: unknown key "heath"; did you mean "health"?',
	]);
	assert.match(problems('{ "app": "a", "entry": "a.ts", "xyzzyplugh": 1 }')[0]!, /known are app, runtime, entry, build/);
});

test('wrong values are named with what was expected', () => {
	const wrong = (member: string) => problems(`{ "app": "a", "entry": "a.ts",\n${member} }`);
	assert.deepEqual(wrong('"instances": "2"'), ['jibe.json:2:1: "instances": expected a number, got "2"']);
	assert.deepEqual(wrong('"instances": 1.5'), ['jibe.json:2:1: "instances": expected a whole number, got 1.5']);
	assert.deepEqual(wrong('"regions": "al"'), ['jibe.json:2:1: "regions": expected "all" or a list, got "al"']);
	assert.deepEqual(wrong('"warm": "cold"'), ['jibe.json:2:1: "warm": expected "frozen" or "running" or "off", got "cold"']);
	assert.deepEqual(wrong('"strategy": { "type": "wlk" }'), [
		'jibe.json:2:15: "strategy.type": expected "walk" or "canary" or "blue-green" or "rolling", got "wlk"',
	]);
	assert.deepEqual(wrong('"health": { "timeout": "2 s" }'), [
		'jibe.json:2:13: "health.timeout": a number with ms, s, m or h, such as "2s", got "2 s"',
	]);
	assert.deepEqual(wrong('"env": { "a-b": "x" }'), [
		`jibe.json:2:10: "a-b" can't be the name of a variable: letters, digits and _ only, no digit first`,
	]);
	assert.deepEqual(wrong('"env": { "A": 1 }'), ['jibe.json:2:10: "env.A": expected a string, got 1']);
	assert.match(problems('{ "entry": "a.ts" }')[0]!, /^jibe.json:1:1: "app" is missing: expected a string/);
	assert.match(
		problems('{ "app": "My App", "entry": "a.ts" }')[0]!,
		/^jibe.json:1:3: "app": lower-case letters, digits and single hyphens/,
	);
	assert.deepEqual(problems('[]'), ['jibe.json:1:1: jibe.json holds one object, not a list']);
	assert.deepEqual(problems('{ "app": notes }'), ['jibe.json:1:10: expected a value, found notes: text needs double quotes']);
});

test('all problems are listed at once', () => {
	assert.equal(problems('{ "app": "a", "entry": "a.ts", "instances": 0, "memory": 1, "cpu": -1 }').length, 3);
});

test('what is wrong in one environment only is placed there', () => {
	assert.deepEqual(problems('{ "app": "a", "entry": "a.ts",\n"environments": {\n"staging": { "instances": 0 } } }'), [
		'jibe.json:3:14: "instances": expected more than 0, got 0',
	]);
	assert.deepEqual(problems('{ "app": "a", "entry": "a.ts", "environments": {\n"staging": { "runtime": "static" } } }'), [
		'jibe.json:2:14: "runtime" is the same in every environment: it stands at the top only',
	]);
	assert.match(problems('{ "app": "a", "entry": "a.ts", "environments": {\n"a--b": {} } }')[0]!, /^jibe.json:2:1: "a--b" can't be/);
});

test('keys that need or exclude each other', () => {
	const wrong = (members: string) => problems(`{ "app": "a",\n${members} }`);
	assert.match(wrong('"instances": 1')[0]!, /^jibe.json:1:1: runtime "fetch" needs "entry": the module/);
	assert.match(wrong('"runtime": "process"')[1]!, /runtime "process" needs "start"/);
	assert.match(wrong('"runtime": "static"')[1]!, /runtime "static" needs "dir"/);
	assert.match(wrong('"runtime": "container"')[1]!, /runtime "container" needs "image"/);
	assert.deepEqual(wrong('"entry": "a.ts",\n"start": "node a.ts"'), [
		`jibe.json:3:1: "start" belongs to runtime "process", and this app's is "fetch"`,
	]);
	assert.match(wrong('"entry": "../a.ts"')[0]!, /must lie below/);
	assert.match(wrong('"entry": "a.ts", "include": ["/etc/passwd"]')[0]!, /^jibe.json:2:30: "\/etc\/passwd" must lie below/);
	assert.match(wrong('"entry": "a.ts", "regions": ["fra", "fra"]')[0]!, /"fra" stands here twice/);
	assert.match(wrong('"entry": "a.ts", "strategy": { "type": "walk", "waves": ["rest", ["ams"]] }')[0]!, /only be the last wave/);
	assert.match(wrong('"entry": "a.ts", "strategy": { "type": "canary", "ramp": [50, 20] }')[0]!, /must grow/);
	assert.match(wrong('"entry": "a.ts", "servers": ["gpu", "gpu"]')[0]!, /"gpu" stands here twice/);
	assert.match(wrong('"entry": "a.ts", "servers": ["GPU 1"]')[0]!, /lower-case letters, digits and hyphens/);
	assert.match(wrong('"entry": "a.ts", "env": { "PORT": "80" }')[0]!, /"PORT" is set by Jibe itself/);
	assert.match(wrong('"entry": "a.ts", "env": { "KEY": "x" }, "secrets": ["KEY"]')[0]!, /also listed in "secrets"/);
	assert.match(wrong('"entry": "a.ts", "health": { "timeout": "5m" }')[0]!, /longer than the limit of 30 s/);
	assert.match(wrong('"entry": "a.ts", "health": { "timeout": "0s" }')[0]!, /fails every check/);
});

test('what this version does not have is said at once', () => {
	assert.deepEqual(problems('{ "app": "a",\n"runtime": "process", "start": "./a" }'), [
		'jibe.json:2:1: runtime "process" is not there yet; this version runs "fetch": a module whose default export answers requests',
	]);
	const result = '{ "app": "a", "runtime": "container" }';
	assert.throws(() => parseConfigFile(result, 'f', { dockerfile: true }), { message: /^f:1:15: runtime "container" is not there yet/ });
});

test('whatever the text, the answer is a configuration or a ConfigError', () => {
	const key = fc.constantFrom('app', 'entry', 'regions', 'strategy', 'environments', 'health', 'env', 'staging', 'type', 'x');
	const value = fc.letrec((tie) => ({
		any: fc.oneof(
			{ maxDepth: 3 },
			fc.constantFrom('walk', 'all', 'a', 1, null, true),
			fc.array(tie('any')),
			fc.dictionary(key, tie('any')),
		),
	})).any;
	fc.assert(
		fc.property(value, (raw) => {
			try {
				configFor(parseConfigFile(JSON.stringify(raw), 'jibe.json'), 'staging');
			} catch (error) {
				assert(error instanceof ConfigError, String(error));
			}
		}),
		{ numRuns: 500 },
	);
});

test('docs/jibe.schema.json is the schema of this code', () => {
	const published: unknown = JSON.parse(readFileSync(new URL('../../docs/jibe.schema.json', import.meta.url), 'utf8'));
	assert.deepEqual(published, JSON.parse(JSON.stringify(configJsonSchema())), 'run: node scripts/config-schema.ts');
});
