import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { DatabaseFacts } from '#state/inspect.ts';
import type { ServerRow } from '#state/joined-servers.ts';
import { issueCertificate, newAuthority, newKey } from '#wire/certificate.ts';
import { databaseFindings, lifeOf, serverFindings } from './checkup.ts';
import type { ServerView } from './ports.ts';

const NOW = 1_800_000_000_000;
const HOUR_MS = 3_600_000;
const FACTS: DatabaseFacts = {
	version: '18.4', versionNumber: 180_004, inRecovery: false, fsync: true, fullPageWrites: true, synchronousCommit: 'on', readOnly: false,
	maxConnections: 40, connections: 9, bytes: 30 * 2 ** 20, at: NOW + 5, oldestTransactionMs: 3,
}; // prettier-ignore

test('a database that would lose what it was told, or takes nothing, is told with what to do', () => {
	assert.deepEqual(databaseFindings(FACTS, NOW).map(({ state, detail }) => [state, detail]), [['ok', 'PostgreSQL 18.4, 30 MiB, 9 of 40 connections']]); // prettier-ignore
	for (const [more, state, what] of [
		[{ fsync: false }, 'bad', /fsync/],
		[{ fullPageWrites: false }, 'bad', /full_page_writes/],
		[{ synchronousCommit: 'off' }, 'warn', /synchronous_commit/],
		[{ inRecovery: true }, 'bad', /no writes/],
		[{ readOnly: true }, 'bad', /no writes/],
		[{ versionNumber: 130_010, version: '13.10' }, 'bad', /13\.10/],
		[{ connections: 35 }, 'warn', /35 of 40/],
		[{ oldestTransactionMs: 3_600_000 }, 'warn', /60 min/],
		[{ at: NOW - 90_000 }, 'warn', /2 min behind/],
	] as const) {
		const [found, ...others] = databaseFindings({ ...FACTS, ...more }, NOW);
		assert.deepEqual([found?.state, others.length], [state, 0], JSON.stringify(more));
		assert.match(found!.detail, what);
		assert.ok(found!.hint);
	}
});

const VIEW = {
	server: 'one',
	region: 'fra',
	connected: true,
	lostSinceMs: null,
	clockOffMs: 40,
	state: { version: '1.0.0' },
} as ServerView;
const ROW = {
	name: 'one',
	region: 'fra',
	roles: ['agent'],
	conflict: null,
	certificateExpires: NOW + 20 * HOUR_MS,
} as unknown as ServerRow;

test('a server that is lost, off in its clock, about to expire, doubled or of another version is told', () => {
	assert.deepEqual(serverFindings(VIEW, ROW, NOW, '1.0.0').map(({ state }) => state), ['ok']); // prettier-ignore
	const about = (view: Partial<ServerView> | null, row: Partial<ServerRow> = {}, version = '1.0.0') =>
		serverFindings(view && { ...VIEW, ...view }, { ...ROW, ...row }, NOW, version).map(({ check, state }) => `${check} ${state}`);
	assert.deepEqual(about(null), ['link bad']);
	assert.deepEqual(about({ connected: false }), ['link bad']);
	assert.deepEqual(about({ clockOffMs: -HOUR_MS }), ['clock bad']);
	assert.deepEqual(about({ clockOffMs: 5_000 }), ['clock warn']);
	assert.deepEqual(about({}, { certificateExpires: NOW + HOUR_MS }), ['certificate warn']);
	assert.deepEqual(about({}, { conflict: 'two machines' }), ['identity bad']);
	assert.deepEqual(about({}, {}, '1.1.0'), ['version warn']);
	assert.deepEqual(about(null, { roles: ['edge'] }), ['link ok']);
});

test('a certificate is told in time', () => {
	const authority = newAuthority('test', NOW);
	const lasting = (days: number) => {
		const request = { commonName: 'one', publicKey: newKey().publicKey, names: ['one'], notAfter: NOW + days * 24 * HOUR_MS };
		return lifeOf('it', issueCertificate(authority, request, NOW), NOW, 'renew it').state;
	};
	assert.deepEqual([90, 3, -1].map(lasting), ['ok', 'warn', 'bad']);
});
