import { readFileSync, realpathSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { z } from 'zod';
import { systemClock as clock } from '#clock/clock.ts';
import { randomId } from '#digest/digest.ts';
import { createLog, type Log } from '#log/log.ts';
import { runDirectory } from '#process/directory.ts';
import { removePidFile, writePidFile } from '#process/pid-file.ts';
import { openPostgres } from '#state/major.ts';
import { openState } from '#state/open.ts';
import type { State } from '#state/state.ts';
import type { SweptStore } from '#store/blob-store.ts';
import { SWEEP_AFTER_MS, sweep, sweepAfterMs } from '#store/collect.ts';
import { openStore } from '#store/open-store.ts';
import { openControl } from './control.ts';
import { masterKeySource } from './master-key.ts';
import type { OthersOptions } from './others.ts';
import { createDriver } from './driver/driver.ts';
import { findDashboard, loadPages } from './pages.ts';
import { regionName } from '#wire/names.ts';
import { openReserve } from './reserve.ts';
import { restoreProgram, restoreSettings } from './restore-program.ts';
import { tlsSettings } from './tls.ts';

const settingsSchema = z.object({
	data: z.string(),
	port: z.int().min(0).max(65_535),
	regions: z.array(z.object({ name: regionName, edgePort: z.int() })),
	/** Where it listens for other machines. */
	listen: tlsSettings.optional(),
	/** The team's own PostgreSQL; absent: one of our own. */
	databaseUrl: z.string().optional(),
	/** `s3://bucket/prefix` or `file:///directory`; absent: `blobs/` of the data directory. */
	store: z.string().optional(),
	/** Host names to answer to besides the loopback ones. */
	names: z.array(z.string()).default([]),
	dashboard: z.string().optional(),
	version: z.string().default('0.1.0'),
	/** For tests: how often a replica says that it lives, and when it is taken for dead. */
	replicaTimes: z.object({ beatMs: z.int(), leaseMs: z.int(), lookMs: z.int() }).optional(),
	/** For tests: how long builders have to be heard again after control was away. */
	builderGraceMs: z.int().optional(),
});

const ADMIN_TOKEN_FILE = 'admin.token';
const SECRET_MODE = 0o600;
/** Retention: what is no longer kept leaves the database, and later its blobs the store. */
const COLLECT_EACH_MS = 3_600_000;

/** The program `control`. */
export async function main(given: unknown): Promise<void> {
	const restoring = restoreSettings.safeParse(given);
	if (restoring.success) return restoreProgram(restoring.data);
	const settings = settingsSchema.parse(given);
	const { data } = settings;
	const masterKey = masterKeySource(data, process.env);
	const log = createLog({ role: 'control' });
	const postgres = settings.databaseUrl === undefined ? await openPostgres({ data, runDir: runDirectory(data), log, clock }) : null;
	const [state, store] = await Promise.all([
		openState({ database: postgres?.connection ?? settings.databaseUrl!, log, clock, ...(postgres ? { place: postgres.place } : {}) }),
		openStore(data, settings.store, log),
	]);
	await store.claim((await state.installation()).id);
	await ensureAdminToken(data, state, log);
	// With a database elsewhere its room is not this disk's.
	const reserve = postgres ? openReserve(data, clock, log) : null;
	const control = await openControl({
		state,
		store,
		data,
		regions: settings.regions,
		port: settings.port,
		tls: settings.listen,
		names: settings.names,
		pages: loadPages(settings.dashboard ?? findDashboard()),
		version: settings.version,
		createDriver,
		owner: `control-${process.pid}-${randomId()}`,
		sharedStore: settings.store !== undefined,
		builderGraceMs: settings.builderGraceMs,
		replica: { home: homeOf(data), times: settings.replicaTimes, memory: memoryIn(data, log) },
		reserve,
		masterKey,
		log,
		clock,
	});
	const collecting = clock.every(COLLECT_EACH_MS, () => {
		collect(state, store, log).catch((error: unknown) => log.warn('collect.failed', { error }));
	});
	stopOnSignals(log, async () => {
		collecting.cancel();
		reserve?.close();
		await control.close();
		await state.close();
		await store.close();
		// PostgreSQL runs on: the next control adopts it in milliseconds; "jibe down" stops it.
		postgres?.leave();
		removePidFile(data, 'control');
	});
	writePidFile(data, 'control');
	process.stdout.write('ready\n');
}

async function collect(state: State, store: SweptStore, log: Log): Promise<void> {
	const { wanted, releases, events, auditEntries } = await state.collect(clock.now());
	const { waitMs, usedShare } = store.disk === null ? { waitMs: SWEEP_AFTER_MS, usedShare: 0 } : await sweepAfterMs(store.disk);
	const swept = await sweep(store, wanted, clock.now(), waitMs);
	log[waitMs < SWEEP_AFTER_MS ? 'warn' : 'info']('collected', { releases, events, auditEntries, ...swept, diskUsedShare: usedShare });
}

function stopOnSignals(log: Log, stop: () => Promise<void>): void {
	let stopping: Promise<void> | null = null;
	const begin = () => {
		stopping ??= stop().then(
			() => process.exit(0),
			(error: unknown) => {
				log.error('close.failed', { error });
				process.exit(1);
			},
		);
	};
	// Said again by a supervisor that follows one that was killed, it is to end in order all the same.
	process.on('SIGTERM', begin).once('SIGINT', begin);
}

/** Lost with the directory, it is as if it had never been; a disk that is full keeps what it was. */
function memoryIn(data: string, log: Log): OthersOptions['memory'] {
	const file = join(data, 'seen.json');
	return {
		read(installation) {
			try {
				const held = z.object({ installation: z.string(), cursor: z.int() }).parse(JSON.parse(readText(file) ?? 'null'));
				return held.installation === installation ? held.cursor : 0;
			} catch {
				return 0; // there is none yet, or it is damaged
			}
		},
		write(installation, cursor) {
			const draft = `${file}.${process.pid}`;
			try {
				writeFileSync(draft, JSON.stringify({ installation, cursor }), { mode: SECRET_MODE });
				renameSync(draft, file);
			} catch (error) {
				log.warn('cursor.not_kept', { file, error });
			}
		},
	};
}

/** The same for every control that is started here, and for no other directory or copy of this one. */
function homeOf(data: string): string {
	const { ino } = statSync(data);
	return `${hostname()}:${realpathSync(data)}:${ino}`;
}

/** Made at the first start; made again when the file is gone, or when its token no longer works. */
async function ensureAdminToken(data: string, state: State, log: Log): Promise<void> {
	const file = join(data, ADMIN_TOKEN_FILE);
	const held = readText(file);
	if (held !== null && (await state.tokens.verify(held))) return;
	const { secret } = await state.tokens.create({
		name: 'admin',
		role: 'admin',
		apps: null,
		environments: null,
		expiresAt: null,
		by: 'jibe',
	});
	const draft = `${file}.${process.pid}`;
	writeFileSync(draft, `${secret}\n`, { mode: SECRET_MODE });
	renameSync(draft, file);
	log.info('admin_token.written', { file });
}

function readText(file: string): string | null {
	try {
		return readFileSync(file, 'utf8').trim();
	} catch (error) {
		if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
		throw error;
	}
}
