import type { Server } from 'node:http';
import type { Clock, Timer } from '#clock/clock.ts';
import type { Log } from '#log/log.ts';
import { WIRE_VERSION, wantKey } from '#wire/region.ts';
import type { DownMessage, Hello, Instance, Known, UpMessage, Want, Wants } from '#wire/region.ts';
import { Disk, type Remembered } from './disk.ts';
import type { EdgeContext } from './dispatch.ts';
import { createFront } from './front.ts';
import { runProbe } from './probe.ts';
import type { Remotes } from './remotes.ts';
import { Routes } from './routes.ts';
import { direct, knownOf, type Serving, type Ways } from './serving.ts';
import { Recorder } from './stats.ts';
import { connectOptions } from './way.ts';

/** A router of some regions: told what to serve by the depot, remembering it, and saying what it obeys. */
export class Edge {
	readonly #options: EdgeOptions;
	readonly #routes: Routes;
	readonly #disk: Disk;
	readonly #stats: Recorder;
	readonly #context: EdgeContext;
	readonly #sweep: Timer;
	/** Obeyed, and nobody waits to hear of it. */
	#unsaid = new Map<string, Known>();
	#saying: Timer | null = null;

	constructor(options: EdgeOptions) {
		const { clock, log, send, server, remotes } = options;
		this.#options = options;
		this.#routes = new Routes(clock, waysOf(server, remotes));
		this.#disk = new Disk(options.directory, clock, log);
		this.#stats = new Recorder(options.name, clock, (message) => void send({ ...message, server }));
		this.#context = { clock, log, stats: this.#stats, active: new Set(), closing: false };
		this.#sweep = clock.every(SWEEP_MS, () => this.#sweepNow());
		for (const known of this.#disk.load()) recall(known, this.#routes);
	}

	/** The HTTP server of a region, not yet listening. */
	front(region: string): Server {
		const { publicKey, headersTimeoutMs } = this.#options;
		return createFront(region, this.#routes, this.#context, publicKey, headersTimeoutMs);
	}

	hello(): Hello {
		const { server, name, regions } = this.#options;
		const known = [...this.#routes.all()].flatMap(({ wanted }) => (wanted ? [knownOf(wanted)] : []));
		return { type: 'hello', wire: WIRE_VERSION, role: 'edge', server, name, regions: [...regions], known };
	}

	/** The depot is there again: it is told what is obeyed. */
	connected(): void {
		this.#report([...this.#routes.all()].flatMap(({ obeyed }) => (obeyed ? [knownOf(obeyed)] : [])));
	}

	receive(message: DownMessage): void {
		switch (message.type) {
			case 'wants':
				return this.#want(message);
			case 'instances':
				return this.#reported(message);
			case 'probe':
				return this.#probe(message);
			case 'welcome':
			case 'servers':
			case 'heldWanted':
			case 'task':
			case 'taskStop':
			case 'settled':
			case 'logsWanted':
			case 'logsDone':
				return;
		}
	}

	/** Servers that are in the region no more, or can be reached again: what may be obeyed, and who waits, may change with them. */
	serversChanged(removed: readonly string[]): void {
		const all = [...this.#routes.all()];
		for (const serving of all) for (const server of removed) serving.forget(server);
		this.#settle(all.filter(({ wanted }) => wanted !== null));
	}

	/** Servers that instances were reported of. */
	servers(): Set<string> {
		return new Set([...this.#routes.all()].flatMap((serving) => [...serving.reports()].map(([server]) => server)));
	}

	/** Answers from now on end their connections. */
	closing(): void {
		this.#context.closing = true;
	}

	/** Cuts off what is still under way. */
	async close(): Promise<void> {
		this.closing();
		for (const one of this.#context.active) one.end();
		this.#sweep.cancel();
		this.#saying?.cancel();
		this.#stats.stop();
		for (const serving of this.#routes.all()) serving.close();
		await this.#disk.flush();
	}

	/** Requests and tunnels. */
	get underWay(): number {
		return this.#context.active.size;
	}

	#want({ wants, releases }: Wants): void {
		const touched = new Set<Serving>();
		for (const one of wants) {
			if (!this.#options.regions.includes(one.region)) continue;
			const serving = this.#routes.open(one);
			const specs = releases.filter((spec) => spec.app === one.app && spec.environment === one.environment);
			if (serving.want(one, specs)) touched.add(serving);
			else if (serving.obeyed) this.#report([knownOf(serving.obeyed)]);
		}
		this.#routes.changed();
		this.#settle(touched);
	}

	/** What an agent says of its instances. */
	#reported({ server, groups }: Extract<DownMessage, { type: 'instances' }>): void {
		const touched = new Set<Serving>();
		for (const group of groups) {
			if (!this.#options.regions.includes(group.region)) continue;
			const serving = this.#routes.open(group);
			const instances = group.instances.filter((instance) => reachable(instance, this.#options.log));
			if (serving.report(server, instances, group)) touched.add(serving);
		}
		this.#settle(touched);
	}

	/** Obeys what may be obeyed by now, says so, and has those look again who wait. */
	#settle(servings: Iterable<Serving>): void {
		const obeyed: Known[] = [];
		for (const serving of servings) {
			const before = serving.obeyed;
			const known = serving.obey();
			if (known !== null && preparesOnly(before, serving.obeyed)) this.#reportLater(known);
			else if (known !== null) obeyed.push(known);
			this.#disk.changed(serving);
			serving.wake();
		}
		if (obeyed.length > 0) this.#routes.changed();
		this.#report(obeyed);
	}

	/** The pointer that follows is what somebody waits for. */
	#reportLater(known: Known): void {
		this.#unsaid.set(wantKey(known), known);
		this.#saying ??= this.#options.clock.after(REPORT_WITHIN_MS, () => {
			this.#saying = null;
			this.#report([...this.#unsaid.values()]);
		}, { idle: true }); // prettier-ignore
	}

	#report(items: Known[]): void {
		const { server, name, send } = this.#options;
		for (const item of items) this.#unsaid.delete(wantKey(item));
		if (items.length > 0) send({ type: 'applied', server, edge: name, items });
	}

	#probe(probe: Extract<DownMessage, { type: 'probe' }>): void {
		const { clock, send } = this.#options;
		runProbe(probe, this.#routes.get(probe), clock).then(send, (error: unknown) => {
			send({ type: 'probed', id: probe.id, samples: [], error: String(error) });
		});
	}

	#sweepNow(): void {
		const now = this.#options.clock.monotonic();
		for (const one of this.#context.active) one.sweep(now);
		for (const serving of this.#routes.all()) serving.sweep();
	}
}

const SWEEP_MS = 1_000;
/** Of what is prepared. */
const REPORT_WITHIN_MS = 1_000;

export interface EdgeOptions {
	name: string;
	server: string;
	regions: readonly string[];
	/** The other servers of the region; absent: there are none. */
	remotes?: Remotes | undefined;
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

/** Instances of other servers are reached through these servers' agents. */
function waysOf(own: string, remotes: Remotes | undefined): Ways {
	if (!remotes) return direct;
	return (server, instance) => (server === own ? direct(server, instance) : remotes.wayTo(server, instance.id));
}

/** The same releases serve, by the same shares, until what is prepared gets its pointer. */
function preparesOnly(before: Want | null, now: Want | null): boolean {
	if (!before || !now || !now.run.some(({ as }) => as === 'prepared')) return false;
	const [was, is] = [before.pointer, now.pointer];
	return (
		was.primary === is.primary && was.candidate?.release === is.candidate?.release && was.candidate?.weightBp === is.candidate?.weightBp
	);
}

function recall(known: Remembered, routes: Routes): void {
	const serving = routes.open(known.wanted);
	serving.want(known.wanted, known.releases);
	for (const [server, instances] of Object.entries(known.reports)) {
		serving.report(server, instances, { obeys: known.obeys?.[server], order: known.orders?.[server] });
	}
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
