import { sql } from 'kysely';
import type { Digest } from '#digest/digest.ts';
import { packDigests, unpackDigests } from './digests.ts';
import type { Database } from './database.ts';
import { SIGN_IN_LIFE_MS } from './sign-ins.ts';
import type { Collected } from './state.ts';
import { pushedBlobs } from './pushed.ts';
import { collectSteps } from './steps.ts';

const DAY_MS = 86_400_000;
const RELEASES_KEPT_MS = 30 * DAY_MS;
/** Per environment. */
const LIVE_RELEASES_KEPT = 50;
/** For regions that are away: who is back by then hears that the app was removed, who comes later hears it too. */
const REMOVED_KEPT_MS = 30 * DAY_MS;
const EVENTS_KEPT_MS = 90 * DAY_MS;
const AUDIT_KEPT_MS = 400 * DAY_MS;
const BUILD_LOGS_KEPT_MS = 30 * DAY_MS;
/** As long as the events of a deployment. */
const BUILDS_KEPT_MS = EVENTS_KEPT_MS;
const BATCHES_AT_ONCE = 5_000;
/** The lock that `create_deployment` and `lease_blobs` share. */
const BLOB_LOCK = 7104302;

type Rows = Parameters<Parameters<Database['transaction']>[0]>[0];

/** Retention. Each part is a transaction of its own, short enough that a deploy which waits for it is not felt. */
export async function collect(db: Database, now: number): Promise<Collected> {
	const releases = await dropReleases(db, now);
	const wanted = await db.transaction((rows) => dropBlobs(db, rows, now));
	for (const digest of await collectSteps(db, now)) wanted.add(digest);
	for (const digest of await pushedBlobs(db)) wanted.add(digest);
	const [events, auditEntries] = [await pruneEvents(db, now), await pruneAudit(db, now)];
	await db.call('jibe_forget_removed', 'select jibe.forget_removed($1)', [now - REMOVED_KEPT_MS]);
	await dropExpired(db, now);
	await dropBuilds(db, now);
	return { wanted, releases, events, auditEntries };
}

async function dropReleases(db: Database, now: number): Promise<number> {
	return db.call(
		'jibe_drop_releases',
		`with dropped as (
			delete from jibe.release r where not exists (
				select from jibe.kept_releases($1, $2) k where k.app = r.app and k.number = r.number)
			returning 1)
		select count(*) from dropped`,
		[now - RELEASES_KEPT_MS, LIVE_RELEASES_KEPT],
	);
}

/** An app stops owning what none of its releases pins and no lease holds. Answers with everything that is still owned. */
async function dropBlobs(db: Database, rows: Rows, now: number): Promise<Set<Digest>> {
	await rows(db.build.selectNoFrom(sql`pg_advisory_xact_lock(${BLOB_LOCK})`.as('locked')));
	const wanted = new Set<Digest>();
	for (const { name } of await rows(db.build.selectFrom('jibe.app').select('name').orderBy('name'))) {
		const pinned = await pinnedBlobs(db, rows, name);
		const owned = await rows(db.build.selectFrom('jibe.blob').select(['digest', 'leased_until']).where('app', '=', name));
		const dropped: Digest[] = [];
		for (const { digest, leased_until } of owned) {
			const [one] = unpackDigests(digest);
			if (!one) continue;
			if (pinned.has(one) || leased_until > now) wanted.add(one);
			else dropped.push(one);
		}
		if (dropped.length === 0) continue;
		await rows(
			db.build
				.deleteFrom('jibe.blob')
				.where('app', '=', name)
				.where('digest', 'in', sql<Buffer>`(select jibe.unpack(${packDigests(dropped)}))`),
		);
	}
	return wanted;
}

async function pinnedBlobs(db: Database, rows: Rows, app: string): Promise<Set<Digest>> {
	const pinned = new Set<Digest>();
	for (const { pins } of await rows(db.build.selectFrom('jibe.release').select('pins').where('app', '=', app))) {
		for (const digest of unpackDigests(pins)) pinned.add(digest);
	}
	return pinned;
}

/** From the oldest on, up to the first that is still kept: so a cursor is either whole or pruned. */
function pruneEvents(db: Database, now: number): Promise<number> {
	return db.call(
		'jibe_prune_events',
		`with first_kept as (
			select coalesce(min(e.cursor), 9223372036854775807) as cursor from jibe.event e left join jibe.deployment d on d.id = e.deployment
			where coalesce(d.ended_at, case when d.id is null then e.at else $1::bigint + 1 end) > $1::bigint
		), pruned as (
			delete from jibe.event e using first_kept where e.cursor < first_kept.cursor returning e.cursor
		), noted as (
			update jibe.installation set pruned_cursor = greatest(pruned_cursor, (select max(cursor) from pruned))
			where exists (select from pruned) returning 1
		)
		select count(*) from pruned, (select count(*) from noted) as done`,
		[now - EVENTS_KEPT_MS],
	);
}

async function pruneAudit(db: Database, now: number): Promise<number> {
	const pruned = await db.rows(
		db.build
			.deleteFrom('jibe.audit')
			.where('at', '<', now - AUDIT_KEPT_MS)
			.returning('id'),
	);
	return pruned.length;
}

async function dropExpired(db: Database, now: number): Promise<void> {
	await db.rows(db.build.deleteFrom('jibe.login_code').where('expires_at', '<', now));
	await db.rows(db.build.deleteFrom('jibe.session').where('expires_at', '<', now));
	// For as long again its command is told that it has expired.
	await db.rows(db.build.deleteFrom('jibe.sign_in').where('expires_at', '<', now - SIGN_IN_LIFE_MS));
}

/** Logs, then what is left of builds; a build's steps and log go with it. In pieces, so that nobody waits for long. */
async function dropBuilds(db: Database, now: number): Promise<void> {
	for (let dropped = BATCHES_AT_ONCE; dropped === BATCHES_AT_ONCE;) {
		dropped = await db.call(
			'jibe_drop_build_logs',
			`with dropped as (
				delete from jibe.build_log where (build, attempt, first) in (
					select build, attempt, first from jibe.build_log where at < $1 limit $2) returning 1)
			select count(*)::integer from dropped`,
			[now - BUILD_LOGS_KEPT_MS, BATCHES_AT_ONCE],
		);
	}
	await db.rows(
		db.build
			.deleteFrom('jibe.build')
			.where('phase', '=', 'ended')
			.where('ended_at', '<', now - BUILDS_KEPT_MS),
	);
	await db.rows(
		db.build
			.deleteFrom('jibe.build_lane')
			.where('running', 'is', null)
			.where('head', 'is', null)
			.where('served_at', '<', sql<Date>`clock_timestamp() - interval '90 days'`)
			.where('served_at', '>', sql<Date>`'-infinity'`),
	);
}
