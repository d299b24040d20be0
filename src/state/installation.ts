import type { Selectable } from 'kysely';
import type pg from 'pg';
import type { Clock } from '#clock/clock.ts';
import { randomId } from '#digest/digest.ts';
import type { Log } from '#log/log.ts';
import { newAuthority } from '#wire/certificate.ts';
import { newSigningKey } from '#wire/credential.ts';
import { StateError, type Installation } from './state.ts';
import type { Tables } from './tables.ts';

const FIRST_EPOCH = 1;
const ID_CHARACTERS = 16;
const TIMELINE_LOCK = 7104304;
/** Of the name of a file of the write-ahead log, in hexadecimal. */
const TIMELINE_DIGITS = 8;

/**
 * Makes the installation's row in a new database. On a server whose timeline it does not know (restored from a backup,
 * promoted from a standby) it raises the epoch: the regions may have seen versions that this database has not.
 */
export async function establish(client: pg.Client, of: { clock: Clock; log: Log; place?: string }): Promise<void> {
	await establishIdentity(client, of);
	await checkTimeline(client, of);
}

/** true: it is not the database that this installation knew, and the epoch was raised. */
export async function checkTimeline(client: pg.Client, of: { clock: Clock; log: Log; place?: string }): Promise<boolean> {
	const timeline = await timelineOf(client, of.place);
	const { rows } = await client.query<{ timeline: string | null }>('select timeline from jibe.installation');
	const [known] = rows;
	if (!known || timeline === null || timeline === known.timeline) return false;
	// Before its place was part of it.
	const noted = of.place === undefined ? null : `${known.timeline}/${of.place}`;
	if (known.timeline === null || timeline === noted) {
		await client.query('update jibe.installation set timeline = $1', [timeline]);
		return false;
	}
	// Of two controls that find it out at once one raises it.
	await client.query('begin');
	await client.query('select pg_advisory_xact_lock($1)', [TIMELINE_LOCK]);
	const raised = await client.query<{ epoch: number }>(
		'select jibe.raise_epoch_above($1, $2, $3, 0, true) as epoch from jibe.installation where timeline is distinct from $3',
		['jibe', of.clock.now(), timeline],
	);
	await client.query('commit');
	const [row] = raised.rows;
	if (row) of.log.warn('epoch.raised', { reason: 'unknown timeline of the database', known: known.timeline, found: timeline, ...row });
	return row !== undefined;
}

/** Its own CA came with the second version: an installation of the first gets one now. */
async function establishIdentity(client: pg.Client, { clock }: { clock: Clock }): Promise<void> {
	const find = () => client.query<{ id: string; ca_key: string | null }>('select id, ca_key from jibe.installation');
	let [known] = (await find()).rows;
	if (!known) {
		await create(client, clock.now());
		[known] = (await find()).rows;
	}
	if (!known || known.ca_key !== null) return;
	const { certificate, key } = newAuthority(known.id, clock.now());
	// Two controls that start at once: the first one's is kept.
	await client.query('update jibe.installation set ca_certificate = $1, ca_key = $2 where ca_key is null', [certificate, key]);
}

async function create(client: pg.Client, at: number): Promise<void> {
	const { privatePem, publicPem } = newSigningKey();
	await client.query(
		`insert into jibe.installation (id, epoch, private_pem, public_pem, created_at) values ($1, $2, $3, $4, $5)
		on conflict (one) do nothing`,
		[randomId(ID_CHARACTERS), FIRST_EPOCH, privatePem, publicPem, at],
	);
}

/**
 * `<system identifier>/<timeline>`, of our own server with its place; null where the server keeps that to its
 * administrators. The timeline is that of the write-ahead log: the control file hears of a promotion only later.
 */
async function timelineOf(client: pg.Client, place: string | undefined): Promise<string | null> {
	const { rows } = await client.query<{ may: boolean }>(
		`select has_function_privilege('pg_control_system()', 'execute')
			and has_function_privilege('pg_current_wal_lsn()', 'execute') and has_function_privilege('pg_walfile_name(pg_lsn)', 'execute') as may`,
	);
	if (!rows[0]?.may) return null;
	const found = await client.query<{ system: string; wal: string }>(
		`select (select system_identifier from pg_control_system())::text as system, pg_walfile_name(pg_current_wal_lsn()) as wal`,
	);
	const [row] = found.rows;
	if (!row) return null;
	const timeline = Number.parseInt(row.wal.slice(0, TIMELINE_DIGITS), 16);
	return [row.system, timeline, ...(place === undefined ? [] : [place])].join('/');
}

export function installationOf(row: Selectable<Tables['jibe.installation']>): Installation {
	const { id, epoch, ca_certificate: certificate, ca_key: key } = row;
	if (certificate === null || key === null) throw new StateError('unknown', 'the installation has lost its CA: restore its database');
	return { id, epoch, privatePem: row.private_pem, publicPem: row.public_pem, createdAt: row.created_at, ca: { certificate, key } };
}
