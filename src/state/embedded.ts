import {
	chmodSync,
	chownSync,
	existsSync,
	mkdirSync,
	readdirSync,
	readFileSync,
	renameSync,
	rmSync,
	statSync,
	truncateSync,
	writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import pg from 'pg';
import { pause, systemClock, type Clock } from '#clock/clock.ts';
import { randomSecret } from '#digest/digest.ts';
import type { Log } from '#log/log.ts';
import { signalProcess } from '#process/control.ts';
import { isAlive, type Identity } from '#process/identity.ts';
import { isolation } from '#process/isolation.ts';
import { removePidFile, writePidFile } from '#process/pid-file.ts';
import { spawnDetached, type Bind } from '#process/spawn.ts';
import { findServer, findServerFiles, isServerFrozen, runsFrom, serverProcesses, serverUser } from './postgres-files.ts';
import { StateError, type Connection } from './state.ts';

/** The database of an installation without DATABASE_URL: started or adopted, watched, and started again when it dies. */
export interface Postgres {
	readonly connection: Exclude<Connection, string>;
	/** What its files are known by: a copy of them, or a backup in their place, has another. */
	readonly place: string;
	/** The server's process; another one after a restart. */
	pid(): number;
	onRestart(listener: () => void): () => void;
	/** Stops the server too. Without this call it outlives us, and the next `startPostgres` adopts it. */
	stop(): Promise<void>;
	/** Stops watching; the server runs on. */
	leave(): void;
}

export interface PostgresOptions {
	data: string;
	/** Short: the socket's path may have 107 bytes. */
	runDir: string;
	log: Log;
	clock?: Clock;
	/** Another server than the installation's own, beside it: on the way from one major version to the next. */
	as?: { binaries: string; cluster: string };
}

const MACHINE_ID = '/etc/machine-id';
const START_LIMIT_MS = 60_000;
const STOP_LIMIT_MS = 10_000;
const CONNECT_EACH_MS = 5;
const CHECK_EACH_MS = 1_000;
/** Stopped by a signal, as /proc says, for as many checks. */
const FROZEN_AFTER_CHECKS = 3;
/** No answer for this long: a server that hangs for another reason. */
const SILENT_AFTER_MS = 10_000;
const ANSWER_LIMIT_MS = 2_000;
const RESTART_AFTER_MS = [0, 100, 500, 1_000, 5_000];
const MAX_LOG_BYTES = 8 * 1024 * 1024;

const SETTINGS_OF_ANY_VERSION = { listen_addresses: '', port: '5432', unix_socket_permissions: '0700', timezone: 'UTC' };

/** Measured: 22 MiB for the whole server, 80 ms to the first query. */
const SETTINGS = {
	...SETTINGS_OF_ANY_VERSION,
	shared_buffers: '32MB',
	io_method: 'sync',
	max_connections: '40',
	wal_level: 'minimal',
	max_wal_senders: '0',
	max_wal_size: '64MB',
	min_wal_size: '8MB',
	jit: 'off',
	max_parallel_workers_per_gather: '0',
	// Its look at all tables takes a processor for 30 ms; few rows die here.
	autovacuum_naptime: '5min',
	idle_in_transaction_session_timeout: '30s',
	// Statements carry what users deploy; the server's log must not.
	log_min_error_statement: 'panic',
	log_checkpoints: 'off',
};

export async function startPostgres(options: PostgresOptions): Promise<Postgres> {
	const server = new Server(options);
	await server.begin();
	return server;
}

/** Ends an installation's server when nobody watches it (`jibe down`). false: none was running. */
export async function stopPostgres(data: string): Promise<boolean> {
	const folder = join(data, 'postgres');
	let found = false;
	for (const name of existsSync(folder) ? readdirSync(folder) : []) {
		if (existsSync(join(folder, name, 'PG_VERSION'))) found = (await stopCluster(join(folder, name))) || found;
	}
	removePidFile(data, 'postgres');
	return found;
}

async function stopCluster(cluster: string): Promise<boolean> {
	const running = findServer(cluster);
	if (running) await shutDown(running);
	await killLeftovers(cluster);
	return running !== null;
}

class Server implements Postgres {
	readonly connection: Exclude<Connection, string>;
	private readonly options: PostgresOptions;
	private readonly clock: Clock;
	private readonly places: Places;
	private readonly listeners = new Set<() => void>();
	private identity: Identity = { pid: 0, start: 'never' };
	private watching: { cancel(): void } | null = null;
	private restarting: Promise<void> | null = null;
	private frozenChecks = 0;
	private answeredAt = 0;
	private asking = false;
	private askAgain = false;
	private line: pg.Client | null = null;

	constructor(options: PostgresOptions) {
		this.options = options;
		this.clock = options.clock ?? systemClock;
		this.places = preparePlaces(options);
		this.connection = { host: this.places.socketDir, port: 5432, user: 'jibe', password: password(this.places), database: 'postgres' };
	}

	async begin(): Promise<void> {
		if (!existsSync(this.places.cluster)) await this.initialise();
		await this.adoptOrStart();
		this.answeredAt = this.clock.monotonic();
		this.watching = this.clock.every(CHECK_EACH_MS, () => void this.check());
	}

	/** By machine and inode: a directory that is moved stays what it is. A container's host name is another one each time. */
	get place(): string {
		const machine = existsSync(MACHINE_ID) ? readFileSync(MACHINE_ID, 'utf8').trim() : '';
		return `${machine}:${statSync(this.places.cluster).ino}`;
	}

	pid(): number {
		return this.identity.pid;
	}

	onRestart(listener: () => void): () => void {
		this.listeners.add(listener);
		return () => this.listeners.delete(listener);
	}

	leave(): void {
		this.watching?.cancel();
		this.watching = null;
		this.hangUp();
	}

	async stop(): Promise<void> {
		this.leave();
		await this.restarting;
		await stopCluster(this.places.cluster);
		removePidFile(this.options.data, this.places.pidFile);
	}

	private async adoptOrStart(): Promise<void> {
		const running = findServer(this.places.cluster);
		if (running && (await this.adopt(running))) return;
		await this.start();
	}

	private async adopt(running: Identity): Promise<boolean> {
		if (!runsFrom(running.pid, this.places.binaries)) {
			this.options.log.info('postgres.of_another_version', { pid: running.pid });
			await shutDown(running);
			return false;
		}
		if (await this.becomesReady(running, SILENT_AFTER_MS)) {
			this.identity = running;
			writePidFile(this.options.data, this.places.pidFile, running);
			this.options.log.info('postgres.adopted', { pid: running.pid });
			return true;
		}
		this.options.log.warn('postgres.hangs', { pid: running.pid });
		return false;
	}

	private async start(): Promise<void> {
		await killLeftovers(this.places.cluster);
		if (existsSync(this.places.log) && statSync(this.places.log).size > MAX_LOG_BYTES) truncateSync(this.places.log);
		const own = this.options.as ? SETTINGS_OF_ANY_VERSION : SETTINGS;
		const settings = { ...own, unix_socket_directories: this.places.socketDir };
		const args = Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`]);
		const { identity, child } = await this.run('postgres', this.places.cluster, args);
		child.once('exit', () => void this.check());
		if (!(await this.becomesReady(identity, START_LIMIT_MS))) throw this.failed('did not start');
		this.identity = identity;
		writePidFile(this.options.data, this.places.pidFile, identity);
		this.options.log.info('postgres.started', { pid: identity.pid });
	}

	/** In a directory beside, renamed when whole: a crash in here leaves nothing that looks like a database. */
	private async initialise(): Promise<void> {
		const { draft, socketDir, user } = this.places;
		rmSync(draft, { recursive: true, force: true });
		makeOwned(draft, user);
		const passwordFile = join(socketDir, 'initial-password');
		writeFileSync(passwordFile, this.connection.password, { mode: 0o600 });
		if (user) chownSync(passwordFile, user.uid, user.gid);
		const choices = ['--auth=scram-sha-256', `--pwfile=${passwordFile}`, '--encoding=UTF8', '--locale=C', '--wal-segsize=1'];
		try {
			const { child } = await this.run('initdb', draft, ['-U', 'jibe', ...choices, '--no-instructions']);
			child.ref();
			const code = await new Promise((resolve) => child.once('exit', resolve));
			if (code !== 0) throw this.failed(`could not be initialised (initdb ended with ${String(code)})`);
		} finally {
			rmSync(passwordFile, { force: true });
		}
		renameSync(draft, this.places.cluster);
	}

	private run(program: string, cluster: string, args: string[]) {
		const { bound, user, binaries, log } = this.places;
		const command = join(bound?.binaries ?? binaries, 'bin', program);
		const binds: Bind[] = bound
			? [
					{ from: binaries, to: bound.binaries, readonly: true },
					{ from: cluster, to: bound.cluster, readonly: false },
				]
			: [];
		return spawnDetached({
			argv0: command,
			command,
			args: ['-D', bound?.cluster ?? cluster, ...args],
			env: { LC_ALL: 'C', TZ: 'UTC', PATH: '/usr/bin:/bin' },
			cwd: '/',
			stdout: log,
			stderr: log,
			...user,
			binds,
		});
	}

	private async becomesReady(identity: Identity, limitMs: number): Promise<boolean> {
		const deadline = this.clock.monotonic() + limitMs;
		while (this.clock.monotonic() < deadline) {
			if (await this.answers()) return true;
			if (!isAlive(identity) || isServerFrozen(identity.pid)) return false;
			await pause(CONNECT_EACH_MS, this.clock);
		}
		return false;
	}

	/** Over a connection of our own that stays open: its end is how we learn at once that the server died. */
	private async answers(): Promise<boolean> {
		// Looking for the socket first is a hundred times cheaper than a client that fails.
		if (!this.line && !existsSync(join(this.connection.host, `.s.PGSQL.${this.connection.port}`))) return false;
		const line =
			this.line ?? new pg.Client({ ...this.connection, connectionTimeoutMillis: ANSWER_LIMIT_MS, query_timeout: ANSWER_LIMIT_MS });
		try {
			if (!this.line) {
				line.on('error', () => this.hungUp(line));
				line.on('end', () => this.hungUp(line));
				await line.connect();
			}
			await line.query('select 1');
			this.line = line;
			return true;
		} catch {
			// Starting, stopping, hanging or gone: the caller knows how long to wait.
			if (this.line === line) this.line = null;
			void line.end().catch(() => {});
			return false;
		}
	}

	private hangUp(): void {
		const line = this.line;
		this.line = null;
		void line?.end().catch(() => {});
	}

	private hungUp(line: pg.Client): void {
		if (this.line !== line) return;
		this.line = null;
		void this.check();
	}

	/** Once a second, and when our connection or our child ends. */
	private async check(): Promise<void> {
		if (!this.watching || this.restarting) return;
		if (this.asking) {
			this.askAgain = true;
			return;
		}
		this.asking = true;
		let reason = await this.diagnose();
		// What was learned meanwhile may have come too late for that answer.
		if (this.askAgain) reason ??= await this.diagnose();
		[this.asking, this.askAgain] = [false, false];
		if (reason) await this.restart(reason);
	}

	private async diagnose(): Promise<string | null> {
		if (!isAlive(this.identity)) return 'ended';
		this.frozenChecks = isServerFrozen(this.identity.pid) ? this.frozenChecks + 1 : 0;
		if (this.frozenChecks >= FROZEN_AFTER_CHECKS) return 'frozen';
		if (this.frozenChecks > 0) return null;
		if (await this.answers()) this.answeredAt = this.clock.monotonic();
		else if (!isAlive(this.identity)) return 'ended';
		return this.clock.monotonic() - this.answeredAt > SILENT_AFTER_MS ? 'silent' : null;
	}

	private async restart(reason: string): Promise<void> {
		if (!this.watching || this.restarting) return;
		this.hangUp();
		this.options.log.warn('postgres.restarting', { reason, pid: this.identity.pid });
		this.restarting = this.startAgain();
		await this.restarting;
		this.restarting = null;
	}

	private async startAgain(): Promise<void> {
		for (let attempt = 0; this.watching; attempt++) {
			await pause(RESTART_AFTER_MS[Math.min(attempt, RESTART_AFTER_MS.length - 1)] ?? 0, this.clock);
			try {
				await this.start();
				this.frozenChecks = 0;
				this.answeredAt = this.clock.monotonic();
				for (const listener of this.listeners) listener();
				return;
			} catch (error) {
				this.options.log.error('postgres.restart_failed', { attempt, error });
			}
		}
	}

	private failed(what: string): StateError {
		const tail = existsSync(this.places.log) ? readFileSync(this.places.log, 'utf8').slice(-2_000).trim() : '';
		return new StateError(
			'database_unavailable',
			`the embedded PostgreSQL of ${this.options.data} ${what}; its last words (${this.places.log}):\n${tail}`,
		);
	}
}

interface Places {
	folder: string;
	cluster: string;
	pidFile: string;
	draft: string;
	log: string;
	socketDir: string;
	binaries: string;
	user: { uid: number; gid: number } | null;
	/** As root: where the server's uid sees binaries and cluster, which themselves may lie in somebody's private directory. */
	bound: { binaries: string; cluster: string } | null;
}

function preparePlaces({ data, runDir, as }: PostgresOptions): Places {
	const folder = join(data, 'postgres');
	const cluster = join(folder, as?.cluster ?? 'cluster');
	const more = as ? `-${as.cluster}` : '';
	const user = serverUser(cluster);
	mkdirSync(folder, { recursive: true, mode: 0o700 });
	mkdirSync(join(data, 'logs'), { recursive: true, mode: 0o700 });
	const socketDir = join(runDir, `pg${more}`);
	makeOwned(socketDir, user);
	const bound = user && isolation().mounts ? { binaries: join(runDir, `pg-files${more}`), cluster: join(runDir, `pg-data${more}`) } : null;
	if (bound) for (const place of Object.values(bound)) mkdirSync(place, { recursive: true, mode: 0o755 });
	const log = join(data, 'logs', 'postgres.log');
	const [pidFile, draft, binaries] = [`postgres${more}`, join(folder, `draft${more}`), as?.binaries ?? findServerFiles()];
	return { folder, cluster, pidFile, draft, log, socketDir, binaries, user, bound };
}

function makeOwned(directory: string, user: Places['user']): void {
	mkdirSync(directory, { recursive: true, mode: 0o700 });
	chmodSync(directory, 0o700);
	if (user) chownSync(directory, user.uid, user.gid);
}

function password(places: Places): string {
	const file = join(places.folder, 'password');
	if (!existsSync(file)) writeFileSync(file, randomSecret(), { mode: 0o600, flag: 'wx' });
	return readFileSync(file, 'utf8');
}

async function shutDown(running: Identity): Promise<void> {
	// A frozen server never sees the request to end.
	if (isServerFrozen(running.pid)) return;
	signalProcess(running, 'SIGINT'); // PostgreSQL's fast shutdown: open transactions are rolled back
	const deadline = systemClock.monotonic() + STOP_LIMIT_MS;
	while (isAlive(running) && systemClock.monotonic() < deadline) await pause(CONNECT_EACH_MS);
}

/** After this nothing holds the cluster, so that a new server can have it; its write-ahead log brings back all that was committed. */
async function killLeftovers(cluster: string): Promise<void> {
	for (const pid of serverProcesses(cluster)) killNow(pid);
	while (serverProcesses(cluster).length > 0) await pause(CONNECT_EACH_MS);
	// Its owner is gone, but where nobody reaps zombies PostgreSQL would still see the pid. Elsewhere than on Linux it decides by itself.
	if (process.platform === 'linux') rmSync(join(cluster, 'postmaster.pid'), { force: true });
}

function killNow(pid: number): void {
	try {
		process.kill(pid, 'SIGKILL');
	} catch (error) {
		if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
	}
}
