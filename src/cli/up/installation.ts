import { chmodSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { LOCAL_REGIONS } from '#wire/local-regions.ts';
import { Failure, EXIT, usage } from '../failure.ts';
import { ownPackage, type Package } from '../installed/package.ts';
import { choosePorts, isFree, portTaken } from './ports.ts';
import { findProcesses } from './processes.ts';

/** What `jibe up` was told, and what an installation remembers of it for the next time. */
export interface UpSettings {
	data: string;
	/** Names, or null for those of the last time (one region the first time). */
	regions: string[] | null;
	/** Null: not asked for. */
	port: number | null;
	edgePort: number | null;
	/** Where control keeps blobs (`s3://bucket`); null: where it did the last time, or in the directory itself. */
	store?: string | null;
	/** Where control listens for other machines, over TLS; null: as the last time; `none`: nowhere. */
	listen?: Listen | 'none' | null;
	/** How many builders there are at least and at most; null: as the last time. */
	builders?: Builders | null;
	/** One depot, agent and pair of edges per region, as on servers of their own. */
	separate: boolean;
	/** The place of a supervisor that runs is taken; what it started runs on, and is replaced where it is of another version. */
	takeOver: boolean;
}

export interface Layout {
	data: string;
	regions: string[];
	port: number;
	edgePort: number;
	store?: string | null;
	listen?: Listen | null;
	builders?: Builders;
	separate: boolean;
}

export interface Builders {
	min: number;
	max: number;
	/** Builds run with all that the builder itself may do, where nothing keeps them apart. */
	allowUnsandboxed: boolean;
}

/** None while there is nothing to build: an idle one holds some 60 MiB. */
export const DEFAULT_BUILDERS: Builders = { min: 0, max: 2, allowUnsandboxed: false };

export interface Listen {
	host: string;
	port: number;
	/** Host names and addresses under which others reach it; absent: those of this machine. */
	names?: string[] | undefined;
	/** A public certificate, with its chain, and its key. */
	certFile?: string | undefined;
	keyFile?: string | undefined;
}

const DEFAULT_PORT = 7070;
const DEFAULT_EDGE_PORT = 8080;

/**
 * Options, else what it was the last time, else the defaults. While anything of this installation runs its ports stay what
 * they are, held or not: a program that is being replaced holds its own as long as it ends, and traffic comes to them.
 */
export async function chooseLayout(settings: UpSettings): Promise<Layout> {
	const { data, separate } = settings;
	const before = remembered(data);
	if (before?.ownDatabase && !process.env['DATABASE_URL']) {
		throw new Failure(
			'database_url_missing',
			EXIT.usage,
			'the state of this installation is in a PostgreSQL of yours, and DATABASE_URL is not set',
			{
				hint: 'set DATABASE_URL as it was; an installation with a database of its own needs another --data DIR',
			},
		);
	}
	const regions = settings.regions ?? before?.regions ?? LOCAL_REGIONS.slice(0, 1);
	const held = before !== null && findProcesses(data).some(({ role }) => HOLDERS.has(role)) ? before : null;
	const port = await choosePorts({
		option: '--port',
		asked: settings.port,
		preferred: before?.port ?? DEFAULT_PORT,
		count: 1,
		ours: new Set(held ? [held.port] : []),
		avoid: new Set(),
	});
	const edgePort = await choosePorts({
		option: '--edge-port',
		asked: settings.edgePort,
		preferred: before?.edgePort ?? DEFAULT_EDGE_PORT,
		count: regions.length,
		ours: new Set(held?.regions.map((_, index) => held.edgePort + index)),
		avoid: new Set([port]),
	});
	const listen = settings.listen === 'none' ? null : (settings.listen ?? before?.listen ?? null);
	const same = held?.listen !== undefined && held.listen.port === listen?.port;
	if (listen && !same && !(await isFree(listen.port, listen.host))) throw portTaken(listen.port, '--listen');
	const builders = settings.builders ?? before?.builders;
	return {
		data,
		regions,
		port,
		edgePort,
		separate,
		store: settings.store ?? before?.store ?? null,
		listen,
		...(builders ? { builders } : {}),
	};
}

/** Programs whose life says that this installation runs: instances live on by themselves, a supervisor holds no port. */
const HOLDERS: ReadonlySet<string> = new Set(['control', 'depot', 'agent', 'edge']);

/** `3`, names with commas, or `none` for a control without regions of its own. @throws Failure (usage) */
export function regionNames(option: string): string[] {
	if (/^\d+$/.test(option)) {
		const wanted = Number(option);
		if (wanted < 1 || wanted > LOCAL_REGIONS.length) throw usage(`--regions takes 1 to ${LOCAL_REGIONS.length} regions, or their names`);
		return LOCAL_REGIONS.slice(0, wanted);
	}
	if (option === 'none') return [];
	const names = option.split(',').filter((name) => name !== '');
	for (const name of names) {
		if (!/^[a-z][a-z0-9-]{0,19}$/.test(name)) throw usage(`"${name}" can't be a region's name: lower-case letters, digits and hyphens`);
	}
	if (new Set(names).size !== names.length) throw usage('a region is named twice in --regions');
	if (names.length === 0) throw usage('--regions needs a number or names');
	return names;
}

/** Creates the directory when it is missing; only its owner may look into it. */
export function openData(data: string): void {
	try {
		mkdirSync(data, { recursive: true, mode: 0o700 });
		chmodSync(data, 0o700);
		for (const name of ['logs', 'pids', 'credentials']) mkdirSync(join(data, name), { recursive: true, mode: 0o700 });
	} catch (cause) {
		throw new Failure('data_directory', EXIT.usage, `${data} can't be used as Jibe's data directory: ${(cause as Error).message}`, {
			hint: 'name another one with --data DIR',
			cause,
		});
	}
}

interface Remembered {
	regions: string[];
	port: number;
	edgePort: number;
	/** Absent: in the directory itself. */
	store?: string;
	/** Digest of the settings each program was last started with. */
	programs: Record<string, string>;
	/** Which package started them; absent before packages were remembered. */
	package?: Package;
	/** True where DATABASE_URL named a server of the team's. */
	ownDatabase?: boolean;
	listen?: Listen;
	builders?: Builders;
}

export function remembered(data: string): Remembered | null {
	try {
		return JSON.parse(readFileSync(join(data, 'installation.json'), 'utf8')) as Remembered;
	} catch (error) {
		if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
		throw new Failure('data_directory', EXIT.usage, `${join(data, 'installation.json')} can't be read`, { cause: error });
	}
}

export function remember(layout: Layout, programs: Record<string, string>): void {
	const { regions, port, edgePort, store, listen, builders } = layout;
	const ownDatabase = Boolean(process.env['DATABASE_URL']);
	const kept = {
		regions,
		port,
		edgePort,
		programs,
		package: ownPackage(),
		ownDatabase,
		...(store ? { store } : {}),
		...(listen ? { listen } : {}),
		...(builders ? { builders } : {}),
	};
	replaceFile(join(layout.data, 'installation.json'), kept);
}

export function edgeUrl(layout: Layout, index: number): string {
	return `http://127.0.0.1:${layout.edgePort + index}`;
}

export function writeEndpoint(layout: Layout): void {
	replaceFile(join(layout.data, 'endpoint.json'), {
		url: `http://127.0.0.1:${layout.port}`,
		edgeUrl: edgeUrl(layout, 0),
		regions: layout.regions.map((name, index) => ({ name, url: edgeUrl(layout, index) })),
		pid: process.pid,
	});
}

export function removeEndpoint(data: string): void {
	rmSync(join(data, 'endpoint.json'), { force: true });
}

/** The URL of a running installation, for messages; null when none is told. */
export function endpointUrl(data: string): string | null {
	try {
		return String((JSON.parse(readFileSync(join(data, 'endpoint.json'), 'utf8')) as { url?: unknown }).url);
	} catch {
		return null; // nothing runs, or it has only begun to
	}
}

function replaceFile(file: string, value: object): void {
	const draft = `${file}.${process.pid}`;
	writeFileSync(draft, `${JSON.stringify(value)}\n`, { mode: 0o600 });
	renameSync(draft, file);
}
