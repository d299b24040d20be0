import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { systemClock as clock } from '#clock/clock.ts';
import { sha256, type Digest } from '#digest/digest.ts';
import { openDiskStore, type DiskStore } from '#store/disk.ts';
import { manifestOf, treeOf, type Manifest } from '#store/manifest.ts';
import type { Connection, State } from '#state/state.ts';
import { appConfig, type AppConfig } from '#wire/config.ts';
import { issueCredential } from '#wire/credential.ts';
import { dial, type Link } from '#wire/link.ts';
import { WIRE_VERSION, wantKey, type DownMessage, type Instance, type Known, type Want } from '#wire/region.ts';
import { UPLOAD_TYPE, encodeUpload } from '#wire/upload.ts';
import { testLog as log, type TestCluster } from '../../test/fixtures/database.ts';
import { openControl, type Control } from './control.ts';
import { createDriver } from './driver/driver.ts';
import { loadPages } from './pages.ts';

/** For tests: a real control on a real database and store, with regions whose depots the test plays over real links. */

export const REGIONS = ['fra', 'ams'];
const PAGES = loadPages(join(import.meta.dirname, '../../dashboard'));

export interface TestControl {
	control: Control;
	state: State;
	store: DiskStore;
	admin: string;
	ask(method: string, path: string, options?: AskOptions): Promise<Answer>;
	deploy(app: string, of?: DeployOf): Promise<Answer>;
	/** The depot of all regions; says what the test has it say. */
	depot(regions?: string[], known?: Known[]): FakeDepot;
	/** A depot whose edges obey and whose instances are healthy at once. */
	obedientDepot(): FakeDepot;
	restart(): Promise<void>;
}

export interface AskOptions {
	token?: string | null;
	json?: unknown;
	body?: Uint8Array<ArrayBuffer>;
	type?: string;
	headers?: Record<string, string>;
}

export interface Answer {
	status: number;
	text: string;
	headers: Headers;
	json<T = { error: { code: string; message: string; hint: string | null; data?: unknown } }>(): T;
	/** Of NDJSON. */
	lines<T>(): T[];
}

export async function startControl(t: TestContext, cluster: TestCluster, options: { database?: Connection } = {}): Promise<TestControl> {
	const dir = mkdtempSync(join(tmpdir(), 'jibe-control-'));
	const database = options.database ?? (await cluster.database());
	const state = await cluster.state({ database, retryForMs: 1_000 });
	const store = await openDiskStore(dir, { durable: true });
	const open = (port: number) => {
		const regions = REGIONS.map((name, index) => ({ name, edgePort: 8080 + index }));
		return openControl({ state, store, regions, port, pages: PAGES, version: '0.0.0', createDriver, owner: 'test', log, clock });
	};
	let control = await open(0);
	const links: Link[] = [];
	const { secret: admin } = await state.tokens.create({
		name: 'admin',
		role: 'admin',
		apps: null,
		environments: null,
		expiresAt: null,
		by: 'test',
	});
	t.after(async () => {
		for (const link of links) link.close();
		await control.close();
		await store.close();
		rmSync(dir, { recursive: true });
	});
	const ask: TestControl['ask'] = (method, path, of = {}) => askHttp(control.url, admin, method, path, of);
	const depot: TestControl['depot'] = (regions = REGIONS, known = []) => {
		const installation = control.house.installation;
		const claims = { installation: installation.id, role: 'depot' as const, server: 'local', regions, expires: 4_000_000_000 };
		const made = fakeDepot(control.url, issueCredential(claims, installation.privatePem), regions, known);
		links.push(made.link);
		return made;
	};
	return {
		get control() {
			return control;
		},
		state,
		store,
		admin,
		ask,
		depot,
		obedientDepot() {
			const made = depot();
			obey(made);
			return made;
		},
		deploy: (app, of = {}) => {
			const body = uploadOf(app, of);
			const path = `/api/v1/apps/${app}/deployments${of.detach ? '?detach=1' : ''}`;
			return ask('POST', path, { body, type: UPLOAD_TYPE, ...(of.token === undefined ? {} : { token: of.token }) });
		},
		async restart() {
			const { port } = new URL(control.url);
			await control.close();
			control = await open(Number(port));
		},
	};
}

async function askHttp(url: string, admin: string, method: string, path: string, of: AskOptions): Promise<Answer> {
	const token = of.token === undefined ? admin : of.token;
	const headers: Record<string, string> = { ...of.headers };
	if (token !== null) headers['authorization'] = `Bearer ${token}`;
	if (of.json !== undefined) headers['content-type'] = 'application/json';
	if (of.type !== undefined) headers['content-type'] = of.type;
	const body = of.json === undefined ? of.body : JSON.stringify(of.json);
	const response = await fetch(url + path, { method, headers, redirect: 'manual', ...(body === undefined ? {} : { body }) });
	const text = await response.text();
	return {
		status: response.status,
		text,
		headers: response.headers,
		json: <T>() => JSON.parse(text) as T,
		lines: <T>() =>
			text
				.trim()
				.split('\n')
				.map((line) => JSON.parse(line) as T),
	};
}

export interface DeployOf {
	files?: Record<string, string>;
	/** Files of what was deployed before; null: the whole manifest is sent. */
	base?: Record<string, string> | null;
	/** Sent blobs; default: those of `files` that `base` does not have. */
	blobs?: Buffer[];
	config?: Partial<AppConfig>;
	header?: Record<string, unknown>;
	environment?: string;
	detach?: boolean;
	token?: string;
}

export const FILES = { 'index.json': '{"format":1}', 'modules/src/server.ts': 'export default {}' };

export function manifestFor(files: Record<string, string>): Manifest {
	return manifestOf(Object.entries(files).map(([path, text]) => [path, [sha256(text), Buffer.byteLength(text), false]] as const));
}

export function rootOf(files: Record<string, string>): Digest {
	return treeOf(manifestFor(files)).root;
}

export function uploadOf(app: string, of: DeployOf = {}): Buffer<ArrayBuffer> {
	const { files = FILES, base = null, environment = 'production' } = of;
	const changed = Object.entries(files).filter(([path, text]) => base?.[path] !== text);
	const all = manifestFor(files);
	const header = {
		environment,
		artifact: rootOf(files),
		manifest: {
			base: base === null ? null : rootOf(base),
			set: Object.fromEntries(changed.map(([path]) => [path, all.get(path)])),
			delete: base === null ? [] : Object.keys(base).filter((path) => !(path in files)),
		},
		vendor: null,
		vendorManifest: null,
		config: appConfig.parse({ app, entry: 'src/server.ts', ...of.config }),
		git: null,
		force: false,
		now: false,
		reason: null,
		stages: [],
		modules: { compiled: changed.length, cached: 0 },
		...of.header,
	};
	const blobs = of.blobs ?? changed.map(([, text]) => Buffer.from(text));
	return Buffer.from(encodeUpload(header, blobs));
}

export interface FakeDepot {
	link: Link;
	messages: DownMessage[];
	/** The first message of this type that has not been handed out. */
	next<T extends DownMessage['type']>(type: T): Promise<Extract<DownMessage, { type: T }>>;
	onMessage(listener: (message: DownMessage) => void): void;
	regions: string[];
}

function fakeDepot(url: string, credential: string, regions: string[], known: Known[]): FakeDepot {
	const messages: DownMessage[] = [];
	const listeners = new Set<(message: DownMessage) => void>();
	let wake = () => {};
	const link = dial({
		url: `${url.replace('http', 'ws')}/link`,
		credential: () => credential,
		hello: () => ({ type: 'hello', wire: WIRE_VERSION, role: 'depot', server: 'local', name: 'depot', regions, known }),
		onUp() {
			const there = { agents: [{ server: 'local' }], edges: [{ server: 'local', name: 'edge-0' }] };
			link.send({ type: 'presence', regions: regions.map((region) => ({ region, ...there })) });
		},
		onMessage(message) {
			messages.push(message);
			wake();
			for (const listener of listeners) listener(message);
		},
		log,
		clock,
	});
	return {
		link,
		messages,
		regions,
		onMessage: (listener) => void listeners.add(listener),
		async next<T extends DownMessage['type']>(type: T) {
			for (;;) {
				const at = messages.findIndex((message) => message.type === type);
				if (at >= 0) return messages.splice(0, at + 1).at(-1) as Extract<DownMessage, { type: T }>;
				await new Promise<void>((resolve) => (wake = resolve));
			}
		},
	};
}

/** Instances are what each want says, edges obey, probes are answered with 200. */
function obey(depot: FakeDepot): void {
	const { link } = depot;
	depot.onMessage((message) => {
		if (message.type === 'probe') {
			const samples = Array.from({ length: message.discard + message.count }, () =>
				message.releases.map((release) => ({ release, status: 200, ms: 1 })),
			);
			link.send({ type: 'probed', id: message.id, samples: samples.flat(), error: null });
		}
		if (message.type !== 'wants') return;
		const place = ({ region, app, environment }: Want) => ({ region, app, environment });
		link.send({
			type: 'instances',
			server: 'local',
			groups: message.wants.map((want) => ({ ...place(want), instances: instancesOf(want) })),
		});
		const items = message.wants.map((want) => ({ ...place(want), epoch: want.epoch, version: want.version }));
		link.send({ type: 'applied', server: 'local', edge: 'edge-0', items });
	});
}

function instancesOf(want: Want): Instance[] {
	return want.run.map(({ release, as }) => ({
		id: `${wantKey(want)}-${release}`,
		release,
		state: as,
		healthy: true,
		address: 'unix:/nowhere.sock',
		pid: 1,
		reason: null,
		detail: null,
		restarts: 0,
		cold: false,
		timings: null,
	}));
}
