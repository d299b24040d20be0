import { chmodSync, existsSync, mkdirSync, readFileSync, realpathSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { z } from 'zod';
import { systemClock } from '#clock/clock.ts';
import { createLog } from '#log/log.ts';
import { runDirectory } from '#process/directory.ts';
import { machineFindings } from '#process/checkup.ts';
import { isolation } from '#process/isolation.ts';
import { removePidFile, writePidFile } from '#process/pid-file.ts';
import { openDiskStore } from '#store/disk.ts';
import { readCredentialFile } from '#wire/credential.ts';
import { dialDepots, type DepotLinks } from '#wire/depots.ts';
import { openJoined } from '#wire/joined.ts';
import { regionName, serverName } from '#wire/names.ts';
import { certificateFinding, reachFindings } from '#wire/reach.ts';
import type { DownMessage } from '#wire/region.ts';
import { createAgent } from './agent.ts';
import { createDepotClient } from './depot-client.ts';
import { instanceProgram, keepProgram, type InstanceProgram } from './instance-program.ts';
import type { Layout, Place } from './layout.ts';
import { openOrder } from './order.ts';
import { openSecretStore } from './secrets.ts';
import { SettledByAll } from './settled.ts';
import { createTasks, type Tasks } from './tasks.ts';
import { openTunnels } from './tunnel.ts';
import { uidOf } from './uids.ts';

const settingsSchema = z.object({
	data: z.string(),
	/** `agent`, or `agent-fra` where each region has an agent of its own. */
	name: z.string().regex(/^[a-z0-9-]+$/),
	server: serverName,
	regions: z.array(regionName).min(1),
	/** Of the depot on this server; a joined server may have none: then the socket is not there, and those of other servers are dialled. */
	depotSocket: z.string(),
	credentialFile: z.string(),
	/** `<data>/server` on a joined server: key and certificate of its own, and the list of the region's servers. */
	identity: z.string().optional(),
	/** Where edges of the region's other servers reach its instances over TLS. */
	listen: z.object({ host: z.string(), port: z.int() }).optional(),
	/** Memory that instances of this server may take in all. */
	budgetMiB: z.int().positive().optional(),
});

/** The program `agent`. It takes up what already runs before it says that it is ready; instances outlive it. */
export async function main(settings: unknown): Promise<void> {
	const { data, name, server, regions, depotSocket, credentialFile, identity, listen, budgetMiB } = settingsSchema.parse(settings);
	const log = createLog({ role: name });
	// What apps are to read lies in directories that only root may enter; the files themselves are readable.
	process.umask(0o022);
	const layout = openLayout(data, name);
	const credential = () => readCredentialFile(credentialFile).credential;
	const joined = openJoined(identity, log);
	const ownDepot = joined && !joined.identity.roles.includes('depot') ? null : depotSocket;
	const depot = createDepotClient({ socketPath: ownDepot, ...(joined ? { others: { peers: joined.peers, regions } } : {}), credential });
	const secrets = openSecretStore({
		home: layout.home,
		identity: () => ({
			...readCredentialFile(credentialFile),
			server,
			serverKey: identity ? readFileSync(join(identity, 'key.pem'), 'utf8') : null,
		}),
		depot,
		log,
	});
	const tunnels = joined && listen ? await openTunnels({ peers: joined.peers, ...listen, log, clock: systemClock }) : null;
	const ordered = openOrder(layout.home, systemClock, log);
	const store = await openDiskStore(join(layout.home, 'blobs'), { durable: false });
	// What is said while it takes up what runs has nobody to hear it yet; `connected` says all of it again.
	let links: DepotLinks | null = null;
	let tasks: Tasks | null = null;
	const own = { data, server, layout, cgroups: `jibe-${basename(runDirectory(data))}`, secrets, clock: systemClock, log };
	const uid = isolation().uid ? (place: Place) => uidOf(data, place) : () => null;
	const agent = await createAgent({
		...own,
		name,
		regions,
		store,
		depot,
		uid,
		...(budgetMiB === undefined ? {} : { budgetMiB }),
		checkup: async () => {
			const around = joined ? [certificateFinding(identity ?? ''), ...(await reachFindings(server, joined.peers.newest))] : [];
			return [...machineFindings(data), ...around];
		},
		send(message) {
			tunnels?.note(message);
			tasks?.note(message);
			return links?.send(ordered(message)) ?? false;
		},
	});
	tasks = createTasks({ ...own, shelf: agent.shelf, reserve: agent.room.reserve, uid, send: (message) => links?.send(message) ?? false });
	const receive = (message: DownMessage): void => {
		if (message.type === 'task') tasks.ordered(message);
		else if (message.type === 'taskStop') tasks.stop(message.id);
		else agent.receive(message);
	};
	// The other servers' edges may come before any depot does.
	agent.connected();
	const settled = new SettledByAll((items) => agent.receive({ type: 'settled', items }));
	links = dialDepots({
		socket: ownDepot,
		peers: joined?.peers ?? null,
		regions,
		credential,
		hello: () => agent.hello(),
		onMessage: (message, from) => (message.type === 'settled' ? settled.said(from, message) : receive(message)),
		onUp(from) {
			settled.up(from);
			agent.connected();
		},
		onDown: (from) => settled.down(from),
		log,
		clock: systemClock,
	});
	let stopping = false;
	const stop = (): void => {
		if (stopping) return;
		stopping = true;
		agent.close();
		const ended = tasks.close();
		links?.close();
		depot.close();
		ended
			.then(() => store.close())
			.then(
				() => {
					removePidFile(data, name);
					process.exit(0);
				},
				(error: unknown) => {
					log.error('close.failed', { error });
					process.exit(1);
				},
			);
	};
	process.on('SIGTERM', stop).once('SIGINT', stop);
	writePidFile(data, name);
	process.stdout.write('ready\n');
}

/** The agent's directories, and what instances are run with: this Node, and a copy of the instance program. */
export function openLayout(data: string, name: string, from: InstanceProgram = instanceProgram()): Layout {
	const home = join(data, name);
	const run = join(runDirectory(data), name);
	mkdirSync(home, { recursive: true, mode: 0o700 });
	const { mounts } = isolation();
	for (const directory of [run, join(run, 's'), join(run, 'm'), join(run, 'm', 'program')]) {
		mkdirSync(directory, { recursive: true });
		chmodSync(directory, 0o711);
	}
	const node = realpathSync(process.execPath);
	const mountPoint = join(run, 'm', 'node');
	if (mounts && !existsSync(mountPoint)) writeFileSync(mountPoint, '');
	return { home, run, mounts, node, program: keepProgram(home, from) };
}
