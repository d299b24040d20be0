import assert from 'node:assert/strict';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { systemClock as clock } from '#clock/clock.ts';
import type { RepositoryRow } from '#state/repositories.ts';
import { branchRules } from '#wire/repositories.ts';
import { testLog as log } from '../../../test/fixtures/database.ts';
import { noGit, startGitServer } from '../../../test/fixtures/git-server.ts';

/** In the place of ssh stands a program that notes what it is asked, and runs here what ssh would run there. */
const place = mkdtempSync(join(tmpdir(), 'jibe-ssh-'));
mkdirSync(join(place, 'bin'));
writeFileSync(
	join(place, 'bin/ssh'),
	`#!/bin/sh
printf '%s\\n' "$@" > ${place}/asked
for word in "$@"; do case "$word" in IdentityFile=*) key="\${word#IdentityFile=}"; cp -p "$key" ${place}/key;; esac; done
[ -e ${place}/refuse ] && { echo "git@forge.test: Permission denied (publickey)." >&2; exit 255; }
for word in "$@"; do last="$word"; done
cd "$(cat ${place}/root)" && exec sh -c "$(echo "$last" | sed "s#'/*#'./#")"
`,
	{ mode: 0o755 },
);
process.env['PATH'] = `${join(place, 'bin')}:${process.env['PATH']}`;
after(() => rmSync(place, { recursive: true, force: true }));
// After the path, of which they take what git gets.
const { Mirrors } = await import('./mirror.ts');
const { Repositories } = await import('../git/repositories.ts');
const { Outbound } = await import('../outbound/outbound.ts');

const MAIN = 'refs/heads/main';
const row = (url: string): RepositoryRow => {
	const apps = [{ app: 'notes', directory: '' }];
	return { name: 'notes', forge: 'generic', url, api: null, apps, rules: branchRules.parse({}), version: 1, createdAt: 0, changedAt: 0, by: 'test' }; // prettier-ignore
};

test('over ssh: the address that was judged, the deploy key alone, and a host key that is remembered', { skip: noGit }, async (t) => {
	const forge = await startGitServer(t);
	const commit = forge.repository('team/notes.git').push({ 'a.txt': 'a' });
	writeFileSync(join(place, 'root'), forge.root);
	const data = mkdtempSync(join(tmpdir(), 'jibe-mirror-'));
	t.after(() => rmSync(data, { recursive: true, force: true }));
	const resolve = async () => [{ address: '140.82.121.3' }];
	const outbound = new Outbound({ allowed: async () => [], own: () => [], clock, resolve });
	const mirrors = new Mirrors({ git: new Repositories(data), outbound, log });

	const url = 'ssh://git@forge.test:2222/team/notes.git';
	assert.equal((await mirrors.bring(row(url), { deploy_key: 'a private key' }, MAIN, MAIN)).after, commit);
	const asked = readFileSync(join(place, 'asked'), 'utf8');
	for (const word of [
		'HostName=140.82.121.3',
		'HostKeyAlias=[forge.test]:2222',
		'Port=2222',
		'IdentitiesOnly=yes',
		'IdentityAgent=none',
		'BatchMode=yes',
		'StrictHostKeyChecking=accept-new',
		`UserKnownHostsFile=${join(data, 'git/known_hosts')}`,
		'ProxyCommand=none',
	])
		assert.ok(asked.split('\n').includes(word), word);
	assert.equal(readFileSync(join(place, 'key'), 'utf8'), 'a private key\n');
	const keyFile = /IdentityFile=(.*)/.exec(asked)?.[1] ?? '';
	assert.ok(keyFile.startsWith(data) && !existsSync(keyFile), 'the key lies there for as long as it is needed');
	assert.deepEqual(readdirSync(join(data, 'git')), ['notes.git']);

	writeFileSync(join(place, 'refuse'), '');
	await assert.rejects(mirrors.bring(row('git@forge.test:team/notes.git'), {}, MAIN, MAIN), { code: 'clone_unauthorised', message: /forge\.test \(team\/notes\)/ }); // prettier-ignore
	assert.match(readFileSync(join(place, 'asked'), 'utf8'), /HostKeyAlias=forge\.test\n[^]*IdentityFile=none\n/);
});
