import type { Server } from 'node:http';
import { connectOptions } from './connection.ts';
import type { Clock } from '#clock/clock.ts';
import type { Log } from '#log/log.ts';
import { WIRE_VERSION, type DownMessage, type Hello, type Instance, type Known, type UpMessage, type Wants } from '#wire/region.ts';
import { Disk, type Remembered } from './disk.ts';
import type { EdgeContext } from './dispatch.ts';
import { createFront } from './front.ts';
import { runProbe } from './probe.ts';
import { Routes } from './routes.ts';
import { knownOf, type Serving } from './serving.ts';
import { Recorder } from './stats.ts';

/** A router of some regions: told what to serve by the depot, remembering it, and saying what it obeys. */
export function createEdge(options: EdgeOptions): Edge {
	const { clock, log, send } = options;
	const routes = new Routes(clock);
	const disk = new Disk(options.directory, clock, log);
	const stats = new Recorder(options.name, clock, (message) => void send(message));
	const context: EdgeContext = { clock, log, stats, active: new Set(), closing: false };
	const sweep = clock.every(SWEEP_MS, () => {
		const now = clock.monotonic();
		for (const one of context.active) one.sweep(now);
		for (const serving of routes.all()) serving.sweep();
	});

	function report(items: Known[]): void {
		if (items.length > 0) send({ type: 'applied', server: options.server, edge: options.name, items });
	}

	/** Obeys what may be obeyed by now, says so, and has those look again who wait. */
	function settle(servings: Iterable<Serving>): void {
		const obeyed: Known[] = [];
		for (const serving of servings) {
			const known = serving.obey();
			if (known !== null) obeyed.push(known);
			disk.changed(serving);
			serving.wake();
		}
		if (obeyed.length > 0) routes.changed();
		report(obeyed);
	}

	function want({ wants, releases }: Wants): void {
		const touched = new Set<Serving>();
		for (const one of wants) {
			if (!options.regions.includes(one.region)) continue;
			const serving = routes.open(one);
			const specs = releases.filter((spec) => spec.app === one.app && spec.environment === one.environment);
			if (serving.want(one, specs)) touched.add(serving);
			else if (serving.obeyed) report([knownOf(serving.obeyed)]);
		}
		routes.changed();
		settle(touched);
	}

	function reportInstances(server: string, groups: readonly (Parameters<Routes['open']>[0] & { instances: Instance[] })[]): void {
		const touched = new Set<Serving>();
		for (const group of groups) {
			if (!options.regions.includes(group.region)) continue;
			const serving = routes.open(group);
			serving.report(
				server,
				group.instances.filter((instance) => reachable(instance, log)),
			);
			touched.add(serving);
		}
		settle(touched);
	}

	for (const known of disk.load()) recall(known, routes);

	return {
		front: (region) => createFront(region, routes, context, options.publicKey, options.headersTimeoutMs),
		hello: () => ({
			type: 'hello',
			wire: WIRE_VERSION,
			role: 'edge',
			server: options.server,
			name: options.name,
			regions: [...options.regions],
			known: [...routes.all()].flatMap(({ wanted }) => (wanted ? [knownOf(wanted)] : [])),
		}),
		connected: () => report([...routes.all()].flatMap(({ obeyed }) => (obeyed ? [knownOf(obeyed)] : []))),
		receive(message) {
			switch (message.type) {
				case 'wants':
					return want(message);
				case 'instances':
					return reportInstances(message.server, message.groups);
				case 'probe':
					return void runProbe(message, routes.get(message), clock).then(send, (error: unknown) => {
						send({ type: 'probed', id: message.id, samples: [], error: String(error) });
					});
				case 'welcome':
				case 'settled':
				case 'logsWanted':
				case 'logsDone':
					return;
			}
		},
		closing() {
			context.closing = true;
		},
		async close() {
			context.closing = true;
			for (const one of context.active) one.end();
			sweep.cancel();
			stats.stop();
			for (const serving of routes.all()) serving.close();
			await disk.flush();
		},
		get underWay() {
			return context.active.size;
		},
	};
}

const SWEEP_MS = 1_000;

export interface EdgeOptions {
	name: string;
	server: string;
	regions: readonly string[];
	/** Its memory. */
	directory: string;
	/** The installation's, for signed links. */
	publicKey: string;
	clock: Clock;
	log: Log;
	/** How long the head of a request may take; 10 s unless given. */
	headersTimeoutMs?: number;
	/** To the depot; false when it is away. */
	send: (message: UpMessage) => boolean;
}

export interface Edge {
	/** The HTTP server of a region, not yet listening. */
	front(region: string): Server;
	hello(): Hello;
	/** The depot is there again: it is told what is obeyed. */
	connected(): void;
	receive(message: DownMessage): void;
	/** Answers from now on end their connections. */
	closing(): void;
	/** Cuts off what is still under way. */
	close(): Promise<void>;
	/** Requests and tunnels. */
	readonly underWay: number;
}

function recall(known: Remembered, routes: Routes): void {
	const serving = routes.open(known.wanted);
	serving.want(known.wanted, known.releases);
	for (const [server, instances] of Object.entries(known.reports)) serving.report(server, instances);
	if (known.obeyed !== null) {
		const same = known.obeyed.epoch === known.wanted.epoch && known.obeyed.version === known.wanted.version;
		serving.adopt(same ? known.wanted : known.obeyed);
	}
}

function reachable(instance: Instance, log: Log): boolean {
	if (instance.address === null) return true;
	try {
		connectOptions(instance.address);
		return true;
	} catch (error) {
		log.warn('edge.bad_address', { instance: instance.id, error });
		return false;
	}
}
