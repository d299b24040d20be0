import { X509Certificate } from 'node:crypto';
import { lookup } from 'node:dns/promises';
import { readFileSync } from 'node:fs';
import type { z } from 'zod';
import { bad, ok, warn, type Finding } from '#process/checkup.ts';
import type { DatabaseFacts } from '#state/inspect.ts';
import type { ServerRow } from '#state/joined-servers.ts';
import { CLOCK_OFF_MS } from '#wire/control-identity.ts';
import type { serverCheckup } from '#wire/api.ts';
import type { House } from './house.ts';
import { Refusal, type ServerView } from './ports.ts';

/** What control finds when it looks at what it stands on, and what it knows of every server. */

const DAY_MS = 86_400_000;
const HOUR_MS = 3_600_000;
const CERTIFICATE_SHORT_DAYS = 14;
/** A server's is renewed when 8 of 24 hours are left. */
const SERVER_CERTIFICATE_SHORT_HOURS = 6;
const LEAST_POSTGRES = 140_000;
const SPARE_CONNECTIONS = 10;
const LONG_TRANSACTION_MS = 600_000;
const CLOCK_WARN_MS = 2_000;
const REPLICA_SILENT_MS = 30_000;
const MAX_NAMES = 100;

export async function controlFindings(house: House, settings: { version: string; certFile?: string | undefined }): Promise<Finding[]> {
	const parts = await Promise.all([
		database(house),
		blobStore(house),
		replicas(house, settings.version),
		names(house),
		masterKey(house),
		Promise.resolve(certificates(house, settings.certFile)),
		Promise.resolve(regions(house)),
	]);
	return [ok('control', `answers, version ${settings.version}, up ${uptime()}`), ...parts.flat()];
}

function uptime(): string {
	const minutes = Math.floor(process.uptime() / 60);
	return minutes < 120 ? `${minutes} min` : `${Math.floor(minutes / 60)} h`;
}

async function database({ state, clock }: House): Promise<Finding[]> {
	if (!(await state.reachable())) {
		const hint = 'logs/postgres.log says why; with DATABASE_URL, look at that server. What serves goes on meanwhile';
		return [bad('database', 'PostgreSQL does not answer', hint)];
	}
	return databaseFindings(await state.inspect(), clock.now());
}

export function databaseFindings(facts: DatabaseFacts, now: number): Finding[] {
	const found: Finding[] = [];
	const { version, versionNumber, maxConnections, connections } = facts;
	if (versionNumber < LEAST_POSTGRES) found.push(bad('database', `PostgreSQL ${version}`, 'version 14 or newer is needed'));
	if (facts.inRecovery || facts.readOnly)
		found.push(bad('database', 'it takes no writes: a standby, or set read-only', 'set DATABASE_URL to the primary, or promote this one'));
	if (!facts.fsync || !facts.fullPageWrites)
		found.push(
			bad('database', 'fsync or full_page_writes is off: a crash of that machine damages it', 'set both on, and restart PostgreSQL'),
		);
	if (facts.synchronousCommit === 'off')
		found.push(
			warn('database', 'synchronous_commit is off: its last moments are lost in a crash', 'set it on, at least for this database'),
		);
	if (maxConnections - connections < SPARE_CONNECTIONS)
		found.push(
			warn('database', `${connections} of ${maxConnections} connections are in use`, 'raise max_connections, or end what holds them'),
		);
	if (facts.oldestTransactionMs > LONG_TRANSACTION_MS) {
		const minutes = Math.round(facts.oldestTransactionMs / 60_000);
		found.push(
			warn('database', `a transaction has been open for ${minutes} min`, 'find it in pg_stat_activity: nothing is cleaned up meanwhile'),
		);
	}
	const off = facts.at - now;
	if (Math.abs(off) > CLOCK_WARN_MS) found.push(warn('database', `its clock is ${offText(off)} control's`, 'set both by NTP'));
	const size = `${(facts.bytes / 2 ** 20).toFixed(0)} MiB, ${connections} of ${maxConnections} connections`;
	return found.length > 0 ? found : [ok('database', `PostgreSQL ${version}, ${size}`)];
}

/** What is written is read again: the same few bytes each time, so that nothing is left but them. */
async function blobStore({ store }: House): Promise<Finding> {
	const text = 'jibe doctor';
	try {
		const [digest] = await store.write([Buffer.from(text)]);
		const read = digest === undefined ? '' : (await store.read(digest)).toString();
		if (read === text) return ok('store', 'takes blobs and gives them back');
		return bad('store', 'gave back something else than it was given', 'it can not be relied on: use another one');
	} catch (error) {
		const { code = 'unknown', message } = error as NodeJS.ErrnoException;
		const hint =
			code === 'store_full'
				? 'make room where it is'
				: 'deploys of new code wait for it; look at its address, credentials and rights (jibe up --store)';
		return bad('store', message, hint);
	}
}

const APART = warn(
	'replicas',
	'each control keeps the blobs that it was sent in its own directory: when one is gone, so is what only it has',
	'jibe up --store s3://bucket (or file:///directory) on each, with a place that all of them reach',
);

async function replicas({ state, sharedStore }: House, version: string): Promise<Finding[]> {
	try {
		const all = await state.replicas.list();
		const silent = all.filter(({ silentMs }) => silentMs > REPLICA_SILENT_MS);
		const others = all.filter((one) => one.version !== version);
		const apart = all.length > 1 && !sharedStore;
		if (silent.length === 0 && others.length === 0 && !apart)
			return [ok('replicas', all.length === 1 ? 'one control' : `${all.length} controls`)];
		return [
			...(apart ? [APART] : []),
			...silent.map(({ id, home, silentMs }) =>
				warn(
					'replicas',
					`${id} (${home}) has been silent for ${Math.round(silentMs / 1000)} s`,
					'look at that machine; the others have taken over',
				),
			),
			...others.map((one) =>
				warn('replicas', `${one.id} (${one.home}) runs ${one.version}, this one ${version}`, 'jibe upgrade on that machine, too'),
			),
		];
	} catch (error) {
		return [bad('replicas', `can't be asked: ${(error as Error).message}`, 'the database has to answer first')];
	}
}

/** Without it no secret is to be read again, and nobody notices before the next deploy. */
async function masterKey({ secrets }: House): Promise<Finding[]> {
	try {
		const tried = await secrets.tried();
		if (!tried) return [];
		return [ok('secrets', `the master key is in ${tried.where}, and opens what was tried (${tried.opened})`)];
	} catch (error) {
		if (error instanceof Refusal) return [bad('secrets', error.message, error.hint ?? 'look at where the master key is kept')];
		return [bad('secrets', `they can't be asked for: ${(error as Error).message}`, 'the database has to answer first')];
	}
}

/** Where apps' domains and control's own names lead. */
async function names({ state, hub, roster }: House): Promise<Finding[]> {
	const wanted = new Set<string>();
	try {
		const byApp = Map.groupBy([...hub.wanted()], ({ app }) => app);
		for (const [app, wants] of byApp) {
			const serving = wants.flatMap(({ pointer }) => pointer.primary ?? []);
			for (const { domains } of await state.deployments.releases(app, [...new Set(serving)])) for (const name of domains) wanted.add(name);
		}
	} catch {
		// Without the database the domains are not known; that it is away is said elsewhere.
	}
	for (const address of roster.addresses()) wanted.add(new URL(address).hostname.replace(/^\[|\]$/g, ''));
	const all = [...wanted].slice(0, MAX_NAMES);
	const lost = await Promise.all(all.map(async (name) => ((await leadsSomewhere(name)) ? [] : [name])));
	const gone = lost.flat();
	if (all.length === 0) return [];
	if (gone.length === 0) return [ok('names', `${all.length} ${all.length === 1 ? 'name leads' : 'names lead'} somewhere`)];
	return gone.map((name) =>
		bad('names', `${name} leads nowhere`, 'make an A or AAAA record for it that leads to the edges (an address of control: to control)'),
	);
}

async function leadsSomewhere(name: string): Promise<boolean> {
	return lookup(name).then(
		() => true,
		() => false,
	);
}

function certificates({ installation, clock }: House, certFile: string | undefined): Finding[] {
	const found = [
		lifeOf('CA of this installation', installation.ca.certificate, clock.now(), 'every server has to join again under a new one: plan it'),
	];
	if (certFile !== undefined) {
		const hint = 'renew it in its file; control takes the new one within 12 h, or at its next start';
		try {
			found.push(lifeOf(certFile, readFileSync(certFile, 'utf8'), clock.now(), hint));
		} catch (error) {
			found.push(bad('certificate', `${certFile} can't be read: ${(error as Error).message}`, 'give control the right to read it'));
		}
	}
	return found;
}

export function lifeOf(what: string, pem: string, now: number, hint: string): Finding {
	const days = Math.floor((new X509Certificate(pem).validToDate.getTime() - now) / DAY_MS);
	if (days < 0) return bad('certificate', `${what} expired ${-days} days ago`, hint);
	return days < CERTIFICATE_SHORT_DAYS
		? warn('certificate', `${what} expires in ${days} days`, hint)
		: ok('certificate', `${what}: ${days} days left`);
}

function regions({ hub }: House): Finding {
	const all = hub.regions();
	const broken = all.filter(({ connected, agents, edges }) => !connected || agents.length === 0 || edges.length === 0);
	if (all.length === 0) return warn('regions', 'none', 'jibe server add --region NAME makes the first; jibe up --regions 1 has one here');
	if (broken.length === 0) return ok('regions', `${all.length} connected`);
	return bad('regions', `not whole: ${broken.map(({ name }) => name).join(', ')}`, 'jibe region list shows what is missing');
}

/** What is known of each server: from its links, its papers, and what its agent found there. */
export function serverCheckups(house: House, version: string): z.infer<typeof serverCheckup>[] {
	const views = new Map(house.hub.servers().map((view) => [view.server, view]));
	const rows = new Map(house.roster.servers().map((row) => [row.name, row]));
	const known = [...new Set([...rows.keys(), ...views.keys()])].toSorted();
	return known.map((name) => {
		const [view, row] = [views.get(name) ?? null, rows.get(name) ?? null];
		const region = row?.region ?? view?.region ?? '';
		const own = row === null && view?.state ? [] : (view?.state?.findings ?? []);
		return { name, region, findings: [...serverFindings(view, row, house.clock.now(), version), ...own] };
	});
}

export function serverFindings(view: ServerView | null, row: ServerRow | null, now: number, version: string): Finding[] {
	const found: Finding[] = [];
	const agent = row === null || row.roles.includes('agent');
	if (row?.conflict) found.push(bad('identity', row.conflict, 'jibe server remove it, then let the one that is to stay join again'));
	if (agent && !view?.connected) {
		const hint = 'on that server: jibe doctor; it dials control, so its way out to control has to be open, not the other one';
		found.push(bad('link', 'its agent is not connected: control hears nothing of it', hint));
	}
	if (row && row.certificateExpires - now < SERVER_CERTIFICATE_SHORT_HOURS * HOUR_MS) {
		const hours = Math.floor((row.certificateExpires - now) / HOUR_MS);
		const detail = hours < 0 ? `its certificate expired ${-hours} h ago` : `its certificate expires in ${hours} h`;
		found.push(warn('certificate', detail, 'it renews it by itself while it reaches control; after 30 days it joins again'));
	}
	const off = view?.clockOffMs ?? 0;
	if (Math.abs(off) > CLOCK_WARN_MS) {
		const finding = Math.abs(off) > CLOCK_OFF_MS ? bad : warn;
		found.push(finding('clock', `its clock is ${offText(off)} control's`, 'timedatectl set-ntp true there'));
	}
	const theirs = view?.state?.version;
	if (theirs !== undefined && theirs !== version)
		found.push(warn('version', `it runs ${theirs}, control ${version}`, 'jibe upgrade on control takes it along'));
	return found.length > 0 ? found : [ok('link', 'connected, its clock and version are those of control')];
}

function offText(ms: number): string {
	const text = Math.abs(ms) < 60_000 ? `${(Math.abs(ms) / 1000).toFixed(1)} s` : `${Math.round(Math.abs(ms) / 60_000)} min`;
	return `${text} ${ms > 0 ? 'ahead of' : 'behind'}`;
}
