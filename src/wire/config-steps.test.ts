import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ConfigError, configFor, parseConfigFile } from './config-file.ts';

function problems(members: string): string[] {
	try {
		parseConfigFile(`{ "app": "a", "entry": "a.ts",\n${members} }`, 'jibe.json');
	} catch (error) {
		assert(error instanceof ConfigError);
		return error.message.split('\n');
	}
	return [];
}

test('a step is a command, or has a name and says more', () => {
	const text = `{ "app": "a", "entry": "a.ts", "build": { "css": { "run": "make css", "outputs": ["public/**"] } }, "test": "node --test" }`;
	const { build, test: tests } = configFor(parseConfigFile(text, 'jibe.json'));
	assert.deepEqual(build, {
		css: {
			run: 'make css',
			outputs: ['public/**'],
			env: {},
			secrets: [],
			network: false,
			timeout: '10m',
			needs: [],
			commitTime: false,
			strip: false,
		},
	});
	assert.equal(tests, 'node --test');
});

test('what is wrong in a step is placed there', () => {
	assert.deepEqual(problems('"build": { "css": { "run": "make",\n"inptus": ["a"] } }'), [
		'jibe.json:3:1: unknown key "inptus" in "build.css"; did you mean "inputs"?',
	]);
	assert.deepEqual(problems('"test": { "unit":\n{ "network": true } }'), ['jibe.json:2:11: "test.unit.run" is missing: expected a string']);
	assert.deepEqual(problems('"build": { "Css": { "run": "make" } }'), [
		`jibe.json:2:12: "Css" can't be the name of a step: lower-case letters, digits and hyphens, at most 40`,
	]);
	assert.deepEqual(problems('"build": { "css": { "run": "make", "gate": "promotion" } }'), [
		'jibe.json:2:36: unknown key "gate" in "build.css"; known are run, inputs, outputs, env, secrets, network, timeout, needs, commitTime, strip',
	]);
	assert.deepEqual(problems('"build": 3'), ['jibe.json:2:1: "build": expected a string or a record, got 3']);
	assert.deepEqual(problems('"migrate": { "befor": "x" }'), ['jibe.json:2:14: unknown key "befor" in "migrate"; did you mean "before"?']);
});

test('steps that can not run', () => {
	const step = (more: string) =>
		problems(`"build": { "a": { "run": "x", ${more} }, "b": { "run": "y", "needs": ["a"] } }, "test": { "t": { "run": "z" } }`);
	assert.match(step('"needs": ["c"]')[0]!, /there is no step "c"; there are a, b, t/);
	assert.match(step('"needs": ["t"]')[0]!, /"t" is a test/);
	assert.match(step('"needs": ["b"]')[0]!, /wait for each other: a, b/);
	assert.match(step('"needs": ["a"]')[0]!, /wait for each other: a, b/);
	assert.match(step('"inputs": ["../x"]')[0]!, /must lie below/);
	assert.match(step('"outputs": ["!/etc"]')[0]!, /must lie below/);
	assert.match(step('"timeout": "2h"')[0]!, /at most 30 minutes/);
	assert.match(step('"timeout": "0s"')[0]!, /more than 0/);
	assert.match(step('"env": { "PATH": "/x" }')[0]!, /"PATH" is set by Jibe itself/);
	assert.deepEqual(step('"needs": []'), []);
	assert.match(problems('"build": "x", "test": { "build": { "run": "y" } }')[0]!, /"build" is a step already/);
	assert.match(problems('"build": { "a": { "run": "x" } }, "test": { "a": { "run": "y" } }')[0]!, /one name, one step/);
	assert.match(
		problems('"types": true, "test": { "types": { "run": "tsc" } }')[0]!,
		/^jibe.json:2:1: there is a step called "types" already/,
	);
	assert.match(problems('"smoke": { "run": "x", "timeout": "3h" }')[0]!, /at most 30 minutes/);
});
