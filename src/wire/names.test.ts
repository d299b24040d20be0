import assert from 'node:assert/strict';
import { test } from 'node:test';
import { appName, deploymentId, digest, regionName, serverName } from './names.ts';
import { LOCAL_REGIONS } from './local-regions.ts';

function takes(schema: { safeParse(value: unknown): { success: boolean } }, good: string[], bad: unknown[]): void {
	for (const name of good) assert.ok(schema.safeParse(name).success, name);
	for (const name of bad) assert.ok(!schema.safeParse(name).success, String(name));
}

test('names that become host names, paths and keys hold nothing else', () => {
	takes(
		appName,
		['a', 'notes', 'notes-2', '0', 'a'.repeat(40)],
		['', '-a', 'a-', 'a--b', 'A', 'a_b', 'a.b', 'a/b', '../a', 'a\n', 'a'.repeat(41), 1],
	);
	takes(regionName, ['fra', 'eu-west-1'], ['', '1a', 'Fra', 'a/b', 'a'.repeat(21)]);
	takes(serverName, ['local', '10-0-0-1'], ['', '-a', 'a.b', 'a'.repeat(64)]);
	takes(deploymentId, ['dpl_7m4k92xy'], ['dpl_7m4k92', '7m4k92xy', 'dpl_7m4k92xi', 'dpl_7M4K92XY', 'dpl_7m4k92xy\n']);
	takes(digest, [`sha256:${'0'.repeat(64)}`], ['', `sha256:${'0'.repeat(63)}`, null]);
});

test('local regions take 24 different names, each a region name', () => {
	assert.equal(new Set(LOCAL_REGIONS).size, 24);
	takes(regionName, [...LOCAL_REGIONS], []);
});
