import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { z } from 'zod';
import { createLog } from '#log/log.ts';
import { readFrame } from './link.ts';
import { downMessage, upMessage } from './region.ts';

/**
 * While servers are upgraded one after the other, programs of this version and of the one before speak to each other.
 * What that one said is recorded: its frames, and the schema of all it could say.
 */

const RECORDED = join(import.meta.dirname, '../../test/fixtures/recorded');
const frames = readFileSync(join(RECORDED, 'wire-0.1.0.jsonl'), 'utf8').trim().split('\n');
const before = JSON.parse(readFileSync(join(RECORDED, 'wire-0.1.0.schema.json'), 'utf8')) as { up: Schema; down: Schema };
const log = createLog({}, { write: () => {} });

interface Schema {
	type?: string | string[];
	const?: unknown;
	enum?: unknown[];
	properties?: Record<string, Schema>;
	required?: string[];
	items?: Schema;
	additionalProperties?: Schema | boolean;
	anyOf?: Schema[];
	oneOf?: Schema[];
}

test('what the version before says is understood, with every field that it has', () => {
	for (const frame of frames) {
		const { type } = JSON.parse(frame) as { type: string };
		const read = understood(frame);
		assert.deepEqual(read, JSON.parse(frame), `${type}: understood in part only`);
	}
});

test('fields and messages of a version to come are dropped, and the rest of the frame is as it was', () => {
	for (const frame of frames) {
		const later = { ...(JSON.parse(frame) as Record<string, unknown>), ofTheFuture: { some: ['thing'] } };
		assert.deepEqual(understood(JSON.stringify(later)), JSON.parse(frame));
	}
	assert.equal(understood('{"type":"ofTheFuture","version":7}'), null);
	fc.assert(
		fc.property(fc.jsonValue(), (value) => understood(JSON.stringify(value)) === null || (value as { type?: unknown }).type !== undefined),
	);
});

for (const [direction, schema] of [
	['up', upMessage],
	['down', downMessage],
] as const) {
	test(`${direction}: what this version says is what the one before expects, and the other way round`, () => {
		const now = z.toJSONSchema(schema, { unrepresentable: 'any', io: 'input' }) as Schema;
		const problems: string[] = [];
		for (const [type, old] of byType(before[direction])) {
			const today = byType(now).get(type);
			if (!today) problems.push(`${type} is gone`);
			else compare(type, old, today, problems);
		}
		assert.deepEqual(problems, []);
	});
}

test('the comparison finds what would break', () => {
	const old: Schema = { type: 'object', properties: { a: { type: 'string' }, b: { enum: ['x', 'y'] } }, required: ['a', 'b'] };
	const found = (today: Schema): string[] => {
		const problems: string[] = [];
		compare('m', old, today, problems);
		return problems;
	};
	const { a, b } = old.properties!;
	assert.deepEqual(found({ ...old, properties: { a: a!, b: b!, c: { type: 'number' } } }), []);
	assert.equal(found({ ...old, properties: { a: a! }, required: ['a'] }).length, 1);
	assert.equal(found({ ...old, required: ['a'] }).length, 1);
	assert.equal(found({ ...old, properties: { a: { type: 'number' }, b: b! } }).length, 1);
	assert.equal(found({ ...old, properties: { a: a!, b: { enum: ['x', 'y', 'z'] } } }).length, 1);
	assert.equal(found({ ...old, properties: { a: { anyOf: [{ type: 'string' }, { type: 'null' }] }, b: b! } }).length, 1);
	assert.equal(found({ ...old, properties: { a: a!, b: b!, c: a! }, required: ['a', 'b', 'c'] }).length, 1);
});

function understood(frame: string): unknown {
	return readFrame(upMessage, frame, log) ?? readFrame(downMessage, frame, log);
}

function byType(schema: Schema): Map<string, Schema> {
	return new Map((schema.oneOf ?? schema.anyOf ?? []).map((one) => [String(one.properties?.['type']?.const), one]));
}

/** `today` accepts all that `old` could be, and all that it can be `old` accepts; further fields are ignored by both. */
function compare(path: string, old: Schema, today: Schema, problems: string[]): void {
	const [a, b] = [kinds(old), kinds(today)];
	if (a !== b) return void problems.push(`${path} was ${a}, and is ${b}`);
	for (const [index, choice] of (old.anyOf ?? []).entries()) compare(`${path}|${index}`, choice, today.anyOf![index]!, problems);
	if (old.items && today.items) compare(`${path}[]`, old.items, today.items, problems);
	if (typeof old.additionalProperties === 'object' && typeof today.additionalProperties === 'object') {
		compare(`${path}{}`, old.additionalProperties, today.additionalProperties, problems);
	}
	for (const [name, field] of Object.entries(old.properties ?? {})) {
		const [was, is] = [old.required?.includes(name) ?? false, today.required?.includes(name) ?? false];
		const todays = today.properties?.[name];
		if (!todays) problems.push(`${path}.${name} is gone`);
		else if (was !== is) problems.push(`${path}.${name} was ${was ? 'necessary' : 'optional'}, and is ${is ? 'necessary' : 'optional'}`);
		else compare(`${path}.${name}`, field, todays, problems);
	}
	for (const name of today.required ?? []) if (!(name in (old.properties ?? {}))) problems.push(`${path}.${name} is new, and necessary`);
}

/** What can be told of a schema without its parts. */
function kinds({ type, const: constant, enum: values, anyOf }: Schema): string {
	if (constant !== undefined) return JSON.stringify(constant);
	if (values) return values.map((value) => JSON.stringify(value)).join('|');
	if (anyOf) return `one of ${anyOf.map(kinds).join(', ')}`;
	return type === undefined ? 'anything' : String(type);
}
