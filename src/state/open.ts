import type pg from 'pg';
import { pause } from '#clock/clock.ts';
import { AppTable, EnvironmentTable, RegionTable } from './apps.ts';
import { AuditTable } from './audit.ts';
import { BlobTable } from './blobs.ts';
import { BuildTable } from './builds.ts';
import { collect } from './collect.ts';
import { connect, isLost, RETRY_FOR_MS, unavailable, type Database } from './database.ts';
import { DeploymentTable } from './deployments.ts';
import { CommitStatusTable, DeliveryTable } from './deliveries.ts';
import { dump } from './dump.ts';
import { openEvents } from './events.ts';
import { checkTimeline, establish, installationOf } from './installation.ts';
import { inspect } from './inspect.ts';
import { migrate } from './migrate.ts';
import { PackageTable } from './packages.ts';
import { RepositoryTable } from './repositories.ts';
import { ReplicaTable } from './replicas.ts';
import { SecretTable } from './secrets.ts';
import { ServerTable } from './servers.ts';
import { StepTable } from './steps.ts';
import { SignInTable } from './sign-ins.ts';
import { StateError, type Installation, type State, type StateOptions } from './state.ts';
import { LoginTable, TokenTable } from './tokens.ts';

/** Two controls must not both find that a name is free. */
const ALONE_LOCK = 7104305;

/** Connects, brings the schema up to date, and makes the installation's identity when there is none. */
export async function openState(options: StateOptions): Promise<State> {
	const { log, clock } = options;
	const db = connect(options);
	try {
		await prepare(db, options);
		const events = await openEvents(db, { log, clock });
		const deployments = new DeploymentTable(db, clock, events);
		const tokens = new TokenTable(db, clock);
		const replicas = new ReplicaTable({ db, events, log, clock });
		return {
			deployments,
			tokens,
			events,
			builds: new BuildTable(db, clock, events),
			apps: new AppTable(db, clock, events, (app) => deployments.forget(app)),
			env: new EnvironmentTable(db, clock, events),
			blobs: new BlobTable(db, clock),
			regions: new RegionTable(db),
			logins: new LoginTable(db, clock, tokens),
			signIns: new SignInTable(db, clock),
			audit: new AuditTable(db),
			servers: new ServerTable(db, clock, events),
			replicas,
			packages: new PackageTable(db, clock, events),
			secrets: new SecretTable(db, clock, events),
			repositories: new RepositoryTable(db, clock, events),
			steps: new StepTable(db, clock),
			deliveries: new DeliveryTable(db, clock),
			commitStatuses: new CommitStatusTable(db, clock),
			installation: () => installation(db),
			raiseEpoch: (by, { above = 0, lost = false } = {}) =>
				db.call('jibe_raise_epoch', 'select jibe.raise_epoch_above($1, $2, null, $3, $4)', [by, clock.now(), above, lost]),
			recover: (of) => deployments.recover(of),
			checkTimeline: () => withClient(db, options, (client) => checkTimeline(client, options)),
			alone: (work) => alone(db, options, work),
			collect: (now) => collect(db, now),
			dump: (what) => dump(db, what),
			inspect: () => inspect(db),
			reachable: () => db.reachable(),
			async close() {
				await replicas.close();
				await events.close();
				await db.close();
			},
		};
	} catch (error) {
		await db.close();
		throw error;
	}
}

async function prepare(db: Database, options: StateOptions): Promise<void> {
	const { log, clock } = options;
	const deadline = clock.monotonic() + (options.retryForMs ?? RETRY_FOR_MS);
	for (;;) {
		try {
			return await withClient(db, options, async (client) => {
				const applied = await migrate(client);
				if (applied > 0) log.info('database.migrated', { applied });
				await establish(client, options);
			});
		} catch (error) {
			if (!isLost(error)) throw error;
			if (clock.monotonic() > deadline) {
				throw new StateError('database_unavailable', 'PostgreSQL does not answer: is DATABASE_URL right, and the server up?', {
					cause: error,
				});
			}
		}
		await pause(250, clock);
	}
}

async function withClient<T>(db: Database, { log }: StateOptions, work: (client: pg.Client) => Promise<T>): Promise<T> {
	const client = db.client();
	client.on('error', (error) => log.debug('database.connection_lost', { error }));
	try {
		await client.connect();
		return await work(client);
	} finally {
		await client.end().catch((error: unknown) => log.debug('database.connection_lost', { error }));
	}
}

async function installation(db: Database): Promise<Installation> {
	const [row] = await db.rows(db.build.selectFrom('jibe.installation').selectAll());
	if (!row) throw new StateError('unknown', 'the database has no installation: it was emptied while control ran; start control again');
	return installationOf(row);
}

async function alone<T>(db: Database, options: StateOptions, work: () => Promise<T>): Promise<T> {
	try {
		return await withClient(db, options, async (client) => {
			// Held until the connection ends, which it does with the process, too.
			await client.query('select pg_advisory_lock($1)', [ALONE_LOCK]);
			return await work();
		});
	} catch (error) {
		throw isLost(error) ? unavailable(error) : error;
	}
}
