import assert from 'node:assert/strict';
import { test } from 'node:test';
import { nearest } from './nearest.ts';

test('the nearest word is near, whatever its case', () => {
	assert.equal(nearest('deply', ['deploy', 'down', 'doctor']), 'deploy');
	assert.equal(nearest('roll', ['status', 'rollback']), 'rollback');
	assert.equal(nearest('Regions', ['regions', 'region']), 'regions');
	assert.equal(nearest('region', ['regions', 'region']), 'region');
});

test('what is too far is not what was meant', () => {
	assert.equal(nearest('banana', ['deploy', 'up']), null);
	assert.equal(nearest('foo', ['regions', 'secrets']), null);
});
