import assert from 'node:assert/strict';
import { test } from 'node:test';
import { packageText, runsPackage } from './package.ts';

test('what a server signs names itself, the package and the moment', () => {
	const digest = `sha256:${'a'.repeat(64)}` as const;
	const text = packageText('i', { server: 'one', digest, at: 5 });
	assert.notEqual(text, packageText('j', { server: 'one', digest, at: 5 }));
	assert.notEqual(text, packageText('i', { server: 'two', digest, at: 5 }));
	assert.notEqual(text, packageText('i', { server: 'one', digest, at: 6 }));
});

test('the place that a package was unpacked to says which it is', () => {
	const wanted = `sha256:0123456789ab${'c'.repeat(52)}`;
	assert.equal(runsPackage('0123456789ab', wanted), true);
	assert.equal(runsPackage('0123456789ac', wanted), false);
	assert.equal(runsPackage(null, wanted), false);
});
