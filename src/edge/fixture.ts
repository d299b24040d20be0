import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, request, type IncomingHttpHeaders, type RequestListener, type Server } from 'node:http';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { systemClock, type Clock } from '#clock/clock.ts';
import { createLog } from '#log/log.ts';
import type { DownMessage, Instance, ReleaseSpec, UpMessage, Want } from '#wire/region.ts';
import { newSigningKey } from '#wire/credential.ts';
import { Edge } from './edge.ts';
import type { Remotes } from './remotes.ts';
import { releaseSpec } from '#wire/fixture.ts';

/** For the stories of this room: a real edge on a port of its own, and real HTTP servers on unix sockets as instances. */
export interface Stage {
	edge: Edge;
	port: number;
	front: Server;
	directory: string;
	privatePem: string;
	sent: UpMessage[];
	/** Resolves with the first message sent, before or after, for which `is` holds. */
	saw<T extends UpMessage['type']>(
		type: T,
		is?: (message: Extract<UpMessage, { type: T }>) => boolean,
	): Promise<Extract<UpMessage, { type: T }>>;
	tell(message: DownMessage): void;
	/** Another edge over the same memory, as after a restart. */
	again(): Promise<Stage>;
}

export async function openStage(
	t: TestContext,
	of: { clock?: Clock; directory?: string; key?: ReturnType<typeof newSigningKey>; headersTimeoutMs?: number; remotes?: Remotes } = {},
): Promise<Stage> {
	const directory = of.directory ?? mkdtempSync(join(tmpdir(), 'jibe-edge-'));
	const key = of.key ?? newSigningKey();
	const sent: UpMessage[] = [];
	const watchers = new Set<() => void>();
	const edge = new Edge({
		name: 'edge-0',
		server: 'local',
		regions: ['fra', 'ams'],
		directory: join(directory, 'memory'),
		publicKey: key.publicPem,
		clock: of.clock ?? systemClock,
		...(of.headersTimeoutMs === undefined ? {} : { headersTimeoutMs: of.headersTimeoutMs }),
		remotes: of.remotes,
		log: createLog({}, { level: 'error' }),
		send: (message) => {
			sent.push(message);
			for (const look of watchers) look();
			return true;
		},
	});
	const front = edge.front('fra');
	front.listen({ port: 0, host: '127.0.0.1' });
	await once(front, 'listening');
	const close = async (): Promise<void> => {
		front.close();
		front.closeAllConnections();
		await edge.close();
	};
	t.after(async () => {
		await close();
		rmSync(directory, { recursive: true, force: true });
	});
	const address = front.address();
	return {
		edge,
		front,
		directory,
		privatePem: key.privatePem,
		port: typeof address === 'object' && address !== null ? address.port : 0,
		sent,
		saw(type, is = () => true) {
			const { promise, resolve } = Promise.withResolvers<Extract<UpMessage, { type: typeof type }>>();
			const look = (): void => {
				for (const message of sent) {
					if (message.type !== type || !is(message as Extract<UpMessage, { type: typeof type }>)) continue;
					watchers.delete(look);
					return resolve(message as Extract<UpMessage, { type: typeof type }>);
				}
			};
			watchers.add(look);
			look();
			return promise;
		},
		tell: (message) => edge.receive(message),
		async again() {
			await close();
			return openStage(t, { directory, key, ...(of.clock ? { clock: of.clock } : {}) });
		},
	};
}

/** Ten times as fast, for what waits long. */
export const hastyClock: Clock = {
	...systemClock,
	monotonic: () => systemClock.monotonic() * 10,
	after: (delayMs, task, options) => systemClock.after(delayMs / 10, task, options),
};

export function temporary(t: TestContext): string {
	const directory = mkdtempSync(join(tmpdir(), 'jibe-edge-'));
	t.after(() => rmSync(directory, { recursive: true, force: true }));
	return directory;
}

export interface RunningInstance {
	server: Server;
	path: string;
	as(state: Instance['state'], more?: Partial<Instance>): Instance;
	stop(): Promise<void>;
}

/** An instance that answers as `listener` does, on a unix socket. */
export async function startInstance(
	t: TestContext,
	release: number,
	listener: RequestListener,
	id = `i${release}`,
): Promise<RunningInstance> {
	const path = join(temporary(t), `${id}.sock`);
	const server = createServer(listener);
	await new Promise<void>((resolve) => server.listen(path, resolve));
	const stop = async (): Promise<void> => {
		if (!server.listening) return;
		server.closeAllConnections();
		await new Promise((resolve) => server.close(resolve));
	};
	t.after(stop);
	return { server, path, as: (state, more) => instanceAt(`unix:${path}`, release, id, state, more), stop };
}

export function instanceAt(address: string, release: number, id: string, state: Instance['state'], more: Partial<Instance> = {}): Instance {
	return {
		id,
		release,
		state,
		healthy: true,
		address,
		pid: process.pid,
		reason: null,
		detail: null,
		restarts: 0,
		cold: false,
		timings: null,
		...more,
	};
}

export function specOf(release: number, more: Partial<ReleaseSpec> = {}): ReleaseSpec {
	return releaseSpec(release, {
		deployment: `dpl_0000000${release}`,
		health: { path: '/healthz', timeoutMs: 2000, strict: false },
		...more,
	});
}

export function wantOf(version: number, primary: number | null, more: Partial<Want> = {}): Want {
	return {
		app: 'notes',
		environment: 'production',
		region: 'fra',
		epoch: 1,
		version,
		deployment: null,
		pointer: { primary, candidate: null, hold: null },
		run: primary === null ? [] : [{ release: primary, instances: 1, as: 'serving' }],
		...more,
	};
}

export function wantsOf(want: Want, ...releases: ReleaseSpec[]): DownMessage {
	return { type: 'wants', wants: [want], releases, gift: null };
}

export function reportOf(...instances: Instance[]): DownMessage {
	return { type: 'instances', server: 'local', groups: [{ region: 'fra', app: 'notes', environment: 'production', instances }] };
}

/** The same, by an agent that obeys this version. */
export function reportObeying(version: number, ...instances: Instance[]): DownMessage {
	const key = { region: 'fra', app: 'notes', environment: 'production' };
	return { type: 'instances', server: 'local', groups: [{ ...key, obeys: { epoch: 1, version }, instances }] };
}

/** A stage on which `listener` serves as v1 of notes. */
export async function serving(
	t: TestContext,
	listener: RequestListener,
	more: Partial<ReleaseSpec> = {},
	clock: Clock = systemClock,
): Promise<Stage & { instance: RunningInstance }> {
	const stage = await openStage(t, { clock });
	const instance = await startInstance(t, 1, listener);
	stage.tell(reportOf(instance.as('serving')));
	stage.tell(wantsOf(wantOf(1, 1), specOf(1, more)));
	return Object.assign(stage, { instance });
}

export interface Reply {
	status: number;
	headers: IncomingHttpHeaders;
	body: string;
}

export function ask(
	port: number,
	of: { host?: string; path?: string; method?: string; headers?: Record<string, string | string[]>; body?: string } = {},
): Promise<Reply> {
	const { promise, resolve, reject } = Promise.withResolvers<Reply>();
	const req = request(
		{
			host: '127.0.0.1',
			port,
			path: of.path ?? '/',
			method: of.method ?? 'GET',
			agent: false,
			headers: { host: of.host ?? 'notes.localhost', ...of.headers },
		},
		(res) => {
			let body = '';
			res.setEncoding('utf8');
			res.on('data', (chunk: string) => (body += chunk));
			res.on('end', () => resolve({ status: res.statusCode ?? 0, headers: res.headers, body }));
			res.on('error', reject);
		},
	);
	req.on('error', reject);
	req.end(of.body);
	return promise;
}

/** Bytes as they are; what came back until the other side closed, or `until` was in it. */
export async function raw(port: number, text: string, until?: string): Promise<string> {
	const socket = await openRaw(port);
	socket.write(text, 'latin1');
	const said = await readUntil(socket, until);
	socket.destroy();
	return said;
}

export async function openRaw(port: number): Promise<Socket> {
	const socket = connect({ port, host: '127.0.0.1' });
	socket.on('error', () => socket.destroy());
	await once(socket, 'connect');
	return socket;
}

export function readUntil(socket: Socket, until?: string): Promise<string> {
	const { promise, resolve } = Promise.withResolvers<string>();
	let said = '';
	const take = (chunk: Buffer): void => {
		said += chunk.toString('latin1');
		if (until !== undefined && said.includes(until)) done();
	};
	const done = (): void => {
		socket.off('data', take).off('close', done);
		resolve(said);
	};
	socket.on('data', take).once('close', done);
	return promise;
}
