import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, chownSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative, resolve } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { isRoot } from '#process/directory.ts';
import { whyNot } from './testbed.ts';

/** Somebody whom the system gives nothing. */
const NOBODY = 65_534;
const ROOT = resolve(import.meta.dirname, '../../..');
const FIXTURE = fileURLToPath(import.meta.resolve('../../../test/fixtures/sandbox-user.ts'));

test('a user other than root builds in bubblewrap, and is told which limits are missing', { skip: whyNot('bwrap') }, (t) => {
	// Not below where only root may go.
	const temporary = mkdtempSync(join(isRoot() ? '/var/tmp' : tmpdir(), 'jibe-user-'));
	t.after(() => rmSync(temporary, { recursive: true, force: true }));
	const { stdout, stderr } = isRoot() ? becomeNobody(temporary) : spawnSync(process.execPath, [FIXTURE], { encoding: 'utf8' });
	if (/Operation not permitted/.test(stderr) && stdout === '') return t.skip('needs user namespaces for everybody');
	assert.equal(stderr, '');
	const { uid, missing, ...seen } = JSON.parse(stdout) as Record<string, unknown> & { missing: string[] };
	assert.notEqual(uid, 0);
	assert.deepEqual(seen, {
		kind: 'bwrap',
		first: '77000\nsources3cretCapEff:\t0000000000000000\n',
		outputs: ['a.txt', 'dist/new'],
		outside: 'unshare: unshare failed: Operation not permitted\n/tmp:\n',
		network: '0\n',
		behind: 'reached\nECONNREFUSED\n',
		disk: 'disk',
		asleep: 'timeout',
	});
	assert.deepEqual(
		missing.map((one) => /^the (.*) of a build is not limited \(Jibe does not run as root\)$/.exec(one)?.[1]),
		['memory', 'number of processes', 'CPU'],
	);
});

/** This house may lie where only root may go: it is seen elsewhere, and by that process alone. */
function becomeNobody(temporary: string) {
	chownSync(temporary, NOBODY, NOBODY);
	const [node, fixture] = [process.execPath, FIXTURE].map((file) => join('/mnt', relative(ROOT, file)));
	const words = `setpriv --reuid ${NOBODY} --regid ${NOBODY} --clear-groups "$1" "$2"`;
	return spawnSync('unshare', ['--mount', 'sh', '-c', `mount --bind "$0" /mnt && cd / && exec ${words}`, ROOT, node!, fixture!], {
		encoding: 'utf8',
		env: { PATH: process.env['PATH'], TMPDIR: temporary },
	});
}
