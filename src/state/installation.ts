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

/**
 * Makes the installation's row in a new database. On a server whose timeline it does not know (restored from a backup,
 * promoted from a standby) it raises the epoch: the regions may have seen versions that this database has not.
 */
export async function establish(client: pg.Client, of: { clock: Clock; log: Log }): Promise<void> {
	const timeline = await timelineOf(client);
	await establishIdentity(client, of, timeline);
	const { rows } = await client.query<{ timeline: string | null }>('select timeline from jibe.installation');
	const [known] = rows;
	if (!known || timeline === null || timeline === known.timeline) return;
	if (known.timeline === null) {
		await client.query('update jibe.installation set timeline = $1', [timeline]);
		return;
	}
	const raised = await client.query<{ epoch: number }>('select jibe.raise_epoch($1, $2, $3) as epoch', ['jibe', of.clock.now(), timeline]);
	of.log.warn('epoch.raised', { reason: 'unknown timeline of the database', epoch: raised.rows[0]?.epoch });
}

/** Its own CA came with the second version: an installation of the first gets one now. */
async function establishIdentity(client: pg.Client, { clock }: { clock: Clock }, timeline: string | null): Promise<void> {
	const find = () => client.query<{ id: string; ca_key: string | null }>('select id, ca_key from jibe.installation');
	let [known] = (await find()).rows;
	if (!known) {
		await create(client, clock.now(), timeline);
		[known] = (await find()).rows;
	}
	if (!known || known.ca_key !== null) return;
	const { certificate, key } = newAuthority(known.id, clock.now());
	// Two controls that start at once: the first one's is kept.
	await client.query('update jibe.installation set ca_certificate = $1, ca_key = $2 where ca_key is null', [certificate, key]);
}

async function create(client: pg.Client, at: number, timeline: string | null): Promise<void> {
	const { privatePem, publicPem } = newSigningKey();
	await client.query(
		`insert into jibe.installation (id, epoch, private_pem, public_pem, created_at, timeline) values ($1, $2, $3, $4, $5, $6)
		on conflict (one) do nothing`,
		[randomId(ID_CHARACTERS), FIRST_EPOCH, privatePem, publicPem, at, timeline],
	);
}

/** `<system identifier>/<timeline>`; null where the server keeps that to its administrators. */
async function timelineOf(client: pg.Client): Promise<string | null> {
	const { rows } = await client.query<{ may: boolean }>(
		`select has_function_privilege('pg_control_system()', 'execute') and has_function_privilege('pg_control_checkpoint()', 'execute') as may`,
	);
	if (!rows[0]?.may) return null;
	const found = await client.query<{ timeline: string }>(
		`select (select system_identifier from pg_control_system()) || '/' || (select timeline_id from pg_control_checkpoint()) as timeline`,
	);
	return found.rows[0]?.timeline ?? null;
}

export function installationOf(row: Selectable<Tables['jibe.installation']>): Installation {
	const { id, epoch, ca_certificate: certificate, ca_key: key } = row;
	if (certificate === null || key === null) throw new StateError('unknown', 'the installation has lost its CA: restore its database');
	return { id, epoch, privatePem: row.private_pem, publicPem: row.public_pem, createdAt: row.created_at, ca: { certificate, key } };
}
