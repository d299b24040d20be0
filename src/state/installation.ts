import type pg from 'pg';
import type { Clock } from '#clock/clock.ts';
import { randomId } from '#digest/digest.ts';
import type { Log } from '#log/log.ts';
import { newSigningKey } from '#wire/credential.ts';
import type { Installation } from './state.ts';

const FIRST_EPOCH = 1;
const ID_CHARACTERS = 16;

/**
 * Makes the installation's row in a new database. On a server whose timeline it does not know (restored from a backup,
 * promoted from a standby) it raises the epoch: the regions may have seen versions that this database has not.
 */
export async function establish(client: pg.Client, of: { clock: Clock; log: Log }): Promise<void> {
	const timeline = await timelineOf(client);
	const { rows } = await client.query<{ timeline: string | null }>('select timeline from jibe.installation');
	const [known] = rows;
	if (!known) return create(client, of.clock.now(), timeline);
	if (timeline === null || timeline === known.timeline) return;
	if (known.timeline === null) {
		await client.query('update jibe.installation set timeline = $1', [timeline]);
		return;
	}
	const raised = await client.query<{ epoch: number }>('select jibe.raise_epoch($1, $2, $3) as epoch', ['jibe', of.clock.now(), timeline]);
	of.log.warn('epoch.raised', { reason: 'unknown timeline of the database', epoch: raised.rows[0]?.epoch });
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

export function installationOf(row: {
	id: string;
	epoch: number;
	private_pem: string;
	public_pem: string;
	created_at: number;
}): Installation {
	return { id: row.id, epoch: row.epoch, privatePem: row.private_pem, publicPem: row.public_pem, createdAt: row.created_at };
}
