import { rmSync } from 'node:fs';
import type { Server } from 'node:http';
import { Server as TcpServer } from 'node:net';
import { join } from 'node:path';
import { z } from 'zod';
import { pause, systemClock } from '#clock/clock.ts';
import { createLog } from '#log/log.ts';
import { runDirectory } from '#process/directory.ts';
import { removePidFile, writePidFile } from '#process/pid-file.ts';
import { readCredentialFile } from '#wire/credential.ts';
import { dialDepots } from '#wire/depots.ts';
import { openJoined, type Joined } from '#wire/joined.ts';
import { regionName, serverName } from '#wire/names.ts';
import { Edge } from './edge.ts';
import { exercise } from './exercise.ts';
import { Remotes } from './remotes.ts';
import { answerAlive, listenTogether, noteHeldPorts, type Life, type Sibling } from './listen.ts';

const settingsSchema = z.object({
	data: z.string(),
	/** `edge-0` and `edge-1`; `edge-fra-0` and the like where regions have edges of their own. */
	name: z.string().regex(/^[a-z0-9-]+-\d+$/),
	server: serverName,
	regions: z.array(z.object({ name: regionName, port: z.int().min(0).max(65_535) })).min(1),
	/** Of the depot on this server; a joined server may have none: then the socket is not there, and those of other servers are dialled. */
	depotSocket: z.string(),
	credentialFile: z.string(),
	/** `<data>/server` on a joined server: key and certificate of its own, and the list of the region's servers. */
	identity: z.string().optional(),
	/** The address that it answers on: loopback on control's own machine. */
	host: z.string().default('127.0.0.1'),
});

/** The program `edge`. It serves what it remembers at once; the depot's newer word comes when it comes. */
export async function main(settings: unknown): Promise<void> {
	const { data, name, server, regions, depotSocket, credentialFile, identity, host } = settingsSchema.parse(settings);
	const log = createLog({ role: name });
	const run = runDirectory(data);
	const joined = openJoined(identity, log);
	const remotes = joined
		? new Remotes({ peers: joined.peers, onChange: () => lookAtServers(edge, joined), log, clock: systemClock })
		: undefined;
	const edge: Edge = new Edge({
		name,
		server,
		regions: regions.map((region) => region.name),
		directory: join(data, 'edge', name),
		publicKey: readCredentialFile(credentialFile).publicKey,
		clock: systemClock,
		log,
		remotes,
		send: (message) => links.send(message),
	});
	const links = dialDepots({
		socket: joined && !joined.identity.roles.includes('depot') ? null : depotSocket,
		peers: joined?.peers ?? null,
		regions: regions.map((region) => region.name),
		credential: () => readCredentialFile(credentialFile).credential,
		hello: () => edge.hello(),
		onMessage: (message) => edge.receive(message),
		onUp: () => edge.connected(),
		log,
		clock: systemClock,
	});

	const aliveSocket = join(run, `${name}.alive.sock`);
	rmSync(aliveSocket, { force: true });
	let life: Life = 'starting';
	const alive = await answerAlive(aliveSocket, () => life);
	const sibling: Sibling = { directory: run, name, others: siblings(name), host };
	const fronts: Server[] = [];
	for (const { name: region, port } of regions) {
		const front = edge.front(region);
		await listenTogether(front, port, sibling, systemClock);
		fronts.push(front);
	}
	noteHeldPorts(sibling, process.pid, regions.map(({ port }) => port)); // prettier-ignore

	life = 'alive';

	const stop = (): void => {
		if (life === 'closing') return;
		life = 'closing';
		stopFronts(fronts, edge)
			.then(() => {
				links.close();
				remotes?.close();
				alive.close();
				removePidFile(data, name);
				process.exit(0);
			})
			.catch((error: unknown) => {
				log.error('close.failed', { error });
				process.exit(1);
			});
	};
	// A supervisor that follows one that was killed says it again: what is under way has its time all the same.
	process.on('SIGTERM', stop).once('SIGINT', stop);
	writePidFile(data, name);
	process.stdout.write('ready\n');
	systemClock.after(EXERCISE_AFTER_MS, () => {
		const { publicKey } = readCredentialFile(credentialFile);
		exercise({ directory: join(run, `${name}.x`), publicKey, clock: systemClock, log }).catch((error: unknown) =>
			log.warn('exercise.failed', { error }),
		);
	}, { idle: true }); // prettier-ignore
}

/** Once everything else has started. */
const EXERCISE_AFTER_MS = 2_000;

/**
 * No new connections, which the other edge takes. Those that are open have a moment to send the request that they were
 * opened for, or the next one, which is answered with the word to close; what is under way has `STOP_MS` to end.
 */
export async function stopFronts(fronts: readonly Server[], edge: Edge): Promise<void> {
	edge.closing();
	await quietTurn();
	const deadline = systemClock.monotonic() + STOP_MS;
	// Not http's own close, which ends idle connections at once.
	const gone = Promise.all(fronts.map((front) => new Promise((resolve) => TcpServer.prototype.close.call(front, resolve))));
	await Promise.race([gone, pause(LAST_REQUEST_MS)]);
	for (const front of fronts) front.closeIdleConnections();
	while (edge.underWay > 0 && systemClock.monotonic() < deadline) await pause(STOP_STEP_MS);
	await edge.close();
	for (const front of fronts) front.closeAllConnections();
}

/**
 * Resolves right after a turn of the event loop that accepted what waited and did little else: who waits in the queue of
 * a socket that is closed is reset, unless the kernel hands him to the other edge (`net.ipv4.tcp_migrate_req`).
 */
async function quietTurn(): Promise<void> {
	for (let turns = 0; turns < QUIET_TURNS; turns++) {
		const before = systemClock.monotonic();
		await new Promise(setImmediate);
		if (systemClock.monotonic() - before < QUIET_MS) return;
	}
}

const QUIET_TURNS = 500;
const QUIET_MS = 0.05;
const STOP_MS = 30_000;
const STOP_STEP_MS = 20;
const LAST_REQUEST_MS = 1_000;

/** Of two edges, the other one. */
function siblings(name: string): string[] {
	const cut = name.lastIndexOf('-');
	return ['0', '1'].map((number) => `${name.slice(0, cut)}-${number}`).filter((other) => other !== name);
}

/** The list of servers changed, or one of them can be reached again, or not any more. */
function lookAtServers(edge: Edge, { identity, peers }: Joined): void {
	edge.serversChanged([...edge.servers()].filter((server) => server !== identity.server && !peers.named(server)));
}
