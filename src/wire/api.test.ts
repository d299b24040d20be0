import assert from 'node:assert/strict';
import { test } from 'node:test';
import { z } from 'zod';
import { EDGES } from '#pipeline/states.ts';
import * as api from './api.ts';

test('the states that the API names are those of the state machine', () => {
	assert.deepEqual([...api.deploymentState.options].toSorted(), Object.keys(EDGES).toSorted());
});

test('every schema of the API can be told as JSON Schema', () => {
	const schemas = Object.entries<unknown>(api).flatMap(([name, value]) => (value instanceof z.ZodType ? [{ name, value }] : []));
	assert.ok(schemas.length > 20);
	for (const { name, value } of schemas) assert.ok(z.toJSONSchema(value, { io: 'input', unrepresentable: 'any' }), name);
});
