import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { keepProgram } from './instance-program.ts';

const place = mkdtempSync(join(tmpdir(), 'jibe-program-'));
after(() => rmSync(place, { recursive: true, force: true }));
const from = { root: join(place, 'dist'), file: 'instance.js' };
const home = join(place, 'agent');
mkdirSync(from.root);

test('the instance program is kept under its digest, another version beside it, and a damaged copy is replaced', () => {
	writeFileSync(join(from.root, from.file), 'export const version = 1;');
	const first = keepProgram(home, from);
	const file = join(first.root, first.file);
	assert.equal(readFileSync(file, 'utf8'), 'export const version = 1;');
	assert.deepEqual(keepProgram(home, from), first);

	writeFileSync(file, 'export const ver');
	assert.deepEqual(keepProgram(home, from), first);
	assert.equal(readFileSync(file, 'utf8'), 'export const version = 1;');

	writeFileSync(join(from.root, from.file), 'export const version = 2;');
	const second = keepProgram(home, from);
	assert.notEqual(second.root, first.root);
	assert.equal(readFileSync(file, 'utf8'), 'export const version = 1;');
	assert.equal(readdirSync(join(home, 'programs')).length, 2);
});

test('a program that runs from its source is left where it is', () => {
	const source = { root: place, file: 'src/agent/instance.ts' };
	assert.equal(keepProgram(home, source), source);
});
