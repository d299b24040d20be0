import { mkdtempSync, realpathSync, rmSync, mkdirSync, chmodSync } from 'node:fs';
import { createPrivateKey } from 'node:crypto';
import { createServer, request, type ServerResponse } from 'node:http';
import { tmpdir } from 'node:os';
import { basename, join, posix } from 'node:path';
import { json } from 'node:stream/consumers';
import assert from 'node:assert/strict';
import { build } from 'esbuild';
import { pause, systemClock, type Clock } from '#clock/clock.ts';
import { sha256, type Digest } from '#digest/digest.ts';
import { createLog } from '#log/log.ts';
import { removeCgroupTree } from '#process/cgroup.ts';
import { killTree } from '#process/control.ts';
import { runDirectory } from '#process/directory.ts';
import { isolation } from '#process/isolation.ts';
import { readPidFiles } from '#process/pid-file.ts';
import type { AppIndex } from '#store/app-index.ts';
import { openDiskStore } from '#store/disk.ts';
import { manifestOf, treeOf, wholeDelta, type Entry, type Manifest } from '#store/manifest.ts';
import type { Place } from './layout.ts';
import type { DownMessage, Instance, LogLines, ReleaseSpec, Run, ServerState, TaskOrder, TaskSaid, UpMessage } from '#wire/region.ts';
import { newSigningKey } from '#wire/credential.ts';
import { sealSecrets, SECRETS_PATH, secretsText, type OpenedSecret, type SecretsRequest } from '#wire/secrets.ts';
import { createAgent, type Agent } from './agent.ts';
import { createDepotClient } from './depot-client.ts';
import { openLayout } from './main.ts';
import { openSecretStore } from './secrets.ts';
import { createTasks, type Tasks } from './tasks.ts';
import { uidOf } from './uids.ts';
import { releaseSpec } from '#wire/fixture.ts';

/** For tests: an agent with real processes, a depot's HTTP side with what was put into it, and an edge's view of it. */
export interface Testbed {
	data: string;
	agent: Agent;
	/** Files of an app by path; `.ts` and `.js` are modules, `.cjs` CommonJS, `.json` and `.txt` as such when imported. */
	put(files: Record<string, string>, options?: Partial<Pick<AppIndex, 'entry' | 'materialise' | 'dynamic' | 'vendor'>>): Digest;
	putVendor(files: Record<string, string>): Digest;
	/** What a depot answers for the secrets of a release from now on; null: that there is no control. */
	secrets(spec: ReleaseSpec, list: OpenedSecret[] | null): void;
	release(artifact: Digest, more?: Partial<ReleaseSpec>): ReleaseSpec;
	want(
		spec: ReleaseSpec | ReleaseSpec[],
		run: Run[],
		more?: { region?: string | string[]; primary?: number | null; settle?: boolean },
	): void;
	settle(): void;
	instances(of: { app: string; region?: string }): Instance[];
	/** The version that the agent said it obeys. */
	obeys(of: { app: string; region?: string }): number | null;
	/** Resolves once the instances of that app and region are as asked. */
	until(of: { app: string; region?: string }, what: string, condition: (instances: Instance[]) => boolean): Promise<Instance[]>;
	logs: LogLines[];
	/** What it said of its server. */
	states: ServerState[];
	/** Gives it a task, or asks again for it. */
	task(spec: ReleaseSpec, command: string, more?: Partial<TaskOrder>): TaskOrder;
	stopTask(id: string): void;
	/** Resolves once it said that the task has ended. */
	taskEnd(order: TaskOrder): Promise<TaskSaid>;
	/** kill -9 in effect: this agent object stops without a word, another is made from the disk. */
	restart(): Promise<void>;
	close(): Promise<void>;
}

const KEYS = newSigningKey();
const PATIENCE_STEPS = 1_000;
const STEP_MS = 10;
const BRIEF = { requestsMs: 5_000, streamsMs: 5_000 };

export async function openTestbed(
	options: { regions?: string[]; budgetMiB?: number; dataMiB?: number; clock?: Clock } = {},
): Promise<Testbed> {
	const data = realpathSync(mkdtempSync(join(tmpdir(), 'jibe-agent-')));
	chmodSync(data, 0o700);
	const program = { root: join(data, 'program'), file: 'instance.js' };
	await bundleInstance(join(program.root, program.file));
	const layout = openLayout(data, 'agent', program);
	rmSync(program.root, { recursive: true }); // as when Jibe is built again or removed: instances are started from a copy
	const blobs = new Map<Digest, Buffer>();
	const trees = new Map<Digest, Manifest>();
	const depotSocket = join(runDirectory(data), 'depot.sock');
	const secrets = new Map<string, OpenedSecret[]>();
	const depot = await serveDepot(depotSocket, blobs, trees, secrets);
	const regions = options.regions ?? ['fra'];
	const said = new Map<string, Instance[]>();
	const obeyed = new Map<string, number>();
	const logs: LogLines[] = [];
	const states: ServerState[] = [];
	const ended = new Map<string, TaskSaid>();
	let tasks: Tasks | null = null;
	const cgroups = `jibe-${basename(runDirectory(data))}`;
	let version = 0;
	const versions = new Map<string, { region: string; app: string; environment: string; epoch: number; version: number }>();
	const release = counter();

	async function open(): Promise<Agent> {
		const client = createDepotClient({ socketPath: depotSocket, credential: () => 'test' });
		const log = createLog({ role: 'agent' }, { level: process.env['JIBE_TEST_LOG'] ? 'debug' : 'error' });
		await tasks?.close();
		const identity = () => ({ server: 'local', installation: 'here', publicKey: KEYS.publicPem, credential: 'test', serverKey: null });
		const secretStore = openSecretStore({ home: layout.home, identity, depot: client, log });
		const uid = isolation().uid ? (place: Place) => uidOf(data, place) : () => null;
		const clock = options.clock ?? systemClock;
		const agent = await createAgent({
			secrets: secretStore,
			data,
			name: 'agent',
			server: 'local',
			regions,
			layout,
			cgroups,
			store: await openDiskStore(join(layout.home, 'blobs'), { durable: false }),
			depot: client,
			uid,
			...(options.budgetMiB === undefined ? {} : { budgetMiB: options.budgetMiB }),
			...(options.dataMiB === undefined ? {} : { dataMiB: options.dataMiB }),
			clock,
			log,
			send: hear,
		});
		const { shelf, room } = agent;
		tasks = createTasks({
			data,
			server: 'local',
			layout,
			cgroups,
			shelf,
			reserve: room.reserve,
			secrets: secretStore,
			uid,
			clock,
			log,
			send: hear,
		});
		return agent;
	}

	function hear(message: UpMessage): boolean {
		for (const { region, app, instances, obeys } of message.type === 'instances' ? message.groups : []) {
			said.set(`${region}/${app}`, instances);
			if (obeys) obeyed.set(`${region}/${app}`, obeys.version);
		}
		tasks?.note(message);
		if (message.type === 'taskSaid') ended.set(message.id, message);
		if (message.type === 'logLines') logs.push(message);
		if (message.type === 'serverState') states.push(message);
		return true;
	}

	function add(text: string | Buffer): [Digest, number] {
		const bytes = Buffer.from(text);
		const digest = sha256(bytes);
		blobs.set(digest, bytes);
		return [digest, bytes.length];
	}

	function tree(files: Iterable<[string, string]>): Digest {
		const manifest = manifestOf([...files].map(([path, text]): [string, Entry] => [path, [...add(text), false]]));
		const { root } = treeOf(manifest);
		trees.set(root, manifest);
		return root;
	}

	const bed: Testbed = {
		data,
		agent: await open(),
		logs,
		states,
		task(spec, command, more = {}) {
			const { app, environment } = spec;
			const own = { type: 'task' as const, region: 'fra', server: 'local', kind: 'migrate-before' as const, secrets: false, env: {} };
			const order = { ...own, id: `${spec.deployment}/migrate-before/1`, app, environment, release: spec, command, timeoutMs: 20_000, leaseMs: 20_000, ...more }; // prettier-ignore
			tasks!.ordered(order);
			return order;
		},
		stopTask: (id) => tasks!.stop(id),
		async taskEnd({ id }) {
			for (let step = 0; step < PATIENCE_STEPS; step++) {
				const said = ended.get(id);
				if (said && said.state !== 'running') return said;
				await pause(STEP_MS);
			}
			throw new Error(`the task ${id} did not end`);
		},
		put: (files, more = {}) => tree(artifactOf(files, more)),
		putVendor: (files) => tree(Object.entries(files).map(([path, text]) => [`node_modules/${path}`, text])),
		secrets({ app, release: number }, list) {
			if (list) secrets.set(`${app}/${number}`, list);
			else secrets.delete(`${app}/${number}`);
		},
		release: (artifact, more = {}) => releaseSpec(more.release ?? release(), { artifact, memoryMiB: 256, drain: BRIEF, ...more }),
		want(specs, run, more = {}) {
			const list = [specs].flat();
			const { app, environment } = list[0]!;
			version++;
			const primary = more.primary === undefined ? (run.find(({ as }) => as === 'serving')?.release ?? null) : more.primary;
			const wants = [more.region ?? regions].flat().map((region) => ({
				region, app, environment, epoch: 1, version, deployment: null, run,
				pointer: { primary, candidate: null, hold: null },
			})); // prettier-ignore
			for (const want of wants) versions.set(`${want.region}/${app}`, { region: want.region, app, environment, epoch: 1, version });
			bed.agent.receive({ type: 'wants', wants, releases: list, gift: null } satisfies DownMessage);
			if (more.settle !== false) bed.settle();
		},
		settle: () => bed.agent.receive({ type: 'settled', items: [...versions.values()] }),
		instances: ({ app, region = regions[0] }) => said.get(`${region}/${app}`) ?? [],
		obeys: ({ app, region = regions[0] }) => obeyed.get(`${region}/${app}`) ?? null,
		async until(of, what, condition) {
			for (let i = 0; i < PATIENCE_STEPS; i++) {
				const now = bed.instances(of);
				if (condition(now)) return now;
				await pause(STEP_MS);
			}
			return assert.fail(`never came: ${what}; instances are ${JSON.stringify(bed.instances(of), null, 1)}`);
		},
		async restart() {
			bed.agent.close();
			said.clear();
			bed.agent = await open();
			bed.agent.connected();
		},
		async close() {
			await tasks?.close();
			bed.agent.close();
			for (let i = 0; i < 100 && readPidFiles(data).some(({ alive }) => alive); i++) {
				for (const file of readPidFiles(data)) killTree(file, file.cgroup);
				await pause(STEP_MS);
			}
			await new Promise((resolve) => depot.close(resolve).closeAllConnections());
			for (let i = 0; i < 100 && !removeCgroupTree(cgroups); i++) await pause(STEP_MS);
			rmSync(runDirectory(data), { recursive: true, force: true });
			rmSync(data, { recursive: true, force: true });
		},
	};
	return bed;
}

/** What `build` would make of such files, for modules that are JavaScript already. */
function artifactOf(files: Record<string, string>, more: Partial<AppIndex>): [string, string][] {
	const modules: AppIndex['modules'] = {};
	const out: [string, string][] = [];
	for (const [path, text] of Object.entries(files)) {
		const format = formatOf(path);
		if (path.endsWith('.ts.map')) {
			out.push([`maps/${path}`, text]);
			continue;
		}
		if (!format) {
			out.push([`files/${path}`, text]);
			continue;
		}
		const resolve: Record<string, string> = {};
		for (const [, specifier] of text.matchAll(/(?:from|import|require\(|import\()\s*['"]([^'"]+)['"]/g)) {
			const target = specifier && targetOf(path, specifier, files);
			if (target) resolve[specifier] = target;
		}
		modules[path] = { format, resolve };
		out.push([`modules/${path}`, text]);
	}
	const index: AppIndex = { format: 1, entry: 'src/server.ts', materialise: false, dynamic: false, vendor: [], modules, ...more };
	return [...out, ['index.json', JSON.stringify(index)]];
}

function formatOf(path: string): 'module' | 'commonjs' | 'json' | 'text' | null {
	if (/\.(ts|js)$/.test(path)) return 'module';
	if (path.endsWith('.cjs')) return 'commonjs';
	if (path.endsWith('.data.json')) return 'json';
	return path.endsWith('.txt') ? 'text' : null;
}

function targetOf(from: string, specifier: string, files: Record<string, string>): string | null {
	if (specifier.startsWith('node:')) return specifier;
	if (!specifier.startsWith('.')) return `vendor:${specifier}/index.js`;
	const path = posix.join(posix.dirname(from), specifier);
	return path in files ? path : null;
}

/** The half of a depot that agents read from. */
async function serveDepot(socket: string, blobs: Map<Digest, Buffer>, trees: Map<Digest, Manifest>, secrets: Map<string, OpenedSecret[]>) {
	const server = createServer((incoming, response) => {
		if (incoming.url === SECRETS_PATH)
			return void json(incoming).then((asked) => answerSecrets(asked as SecretsRequest, secrets, response));
		const [, kind, digest] = /^\/(blobs|trees)\/(sha256:[0-9a-f]{64})$/.exec(incoming.url ?? '') ?? [];
		const tree = trees.get(digest as Digest);
		const body = kind === 'trees' ? tree && Buffer.from(JSON.stringify(wholeDelta(tree))) : blobs.get(digest as Digest);
		response.writeHead(body ? 200 : 404).end(body ?? '{"error":{"code":"not_found"}}');
	});
	await new Promise<void>((resolve) => server.listen(socket, resolve));
	return server;
}

function answerSecrets(asked: SecretsRequest, secrets: ReadonlyMap<string, OpenedSecret[]>, response: ServerResponse): void {
	const list = secrets.get(`${asked.app}/${asked.release}`);
	const sealed = list && sealSecrets(secretsText('here', asked), asked.key, list, createPrivateKey(KEYS.privatePem));
	response.writeHead(sealed ? 200 : 503).end(JSON.stringify(sealed ?? { error: { message: 'control is away' } }));
}

async function bundleInstance(outfile: string): Promise<void> {
	mkdirSync(join(outfile, '..'), { recursive: true });
	const entryPoints = [join(import.meta.dirname, 'instance.ts')];
	await build({ entryPoints, outfile, bundle: true, platform: 'node', format: 'esm', target: 'node24', logLevel: 'error' });
}

export interface Answer {
	status: number;
	body: string;
	headers: Record<string, unknown>;
}

/** One request to an instance, as an edge would make it. */
export function ask(instance: Instance | undefined, path: string, options: { method?: string; body?: string } = {}): Promise<Answer> {
	assert.ok(instance?.address, 'there is an instance with an address');
	const socketPath = instance.address.replace(/^unix:/, '');
	return new Promise((resolve, reject) => {
		const asking = request({ socketPath, path, method: options.method ?? 'GET', headers: { host: 'notes.localhost' } }, (response) => {
			let body = '';
			response.setEncoding('utf8').on('data', (text: string) => (body += text));
			response.on('end', () => resolve({ status: response.statusCode ?? 0, body, headers: response.headers }));
			response.on('error', reject);
		});
		asking.on('error', reject).end(options.body);
	});
}

function counter(): () => number {
	let last = 0;
	return () => ++last;
}
