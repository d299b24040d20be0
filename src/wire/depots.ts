import type { Clock } from '#clock/clock.ts';
import type { Log } from '#log/log.ts';
import { dial, type Link } from './link.ts';
import type { Peers } from './peers.ts';
import { compareVersions, wantKey, type DownMessage, type Hello, type UpMessage, type Version, type Wants } from './region.ts';

/**
 * An agent's or edge's links to every depot of its region: the one on its own server over a unix socket, those on other
 * servers over TLS, as the newest list of servers has them. What is said goes to all; what is heard twice is passed on once.
 */
export interface DepotLinks {
	/** false: no depot heard it. */
	send(message: UpMessage): boolean;
	close(): void;
}

export interface DepotLinksOptions {
	/** Of the depot on this server; null: it has none. */
	socket: string | null;
	/** Who the region's other servers are; null: there is none but this one. */
	peers: Peers | null;
	regions: readonly string[];
	credential: () => string;
	hello: () => Hello;
	/** `depot` names the server that it came from; all are heard but for wants that another depot has said before. */
	onMessage(message: DownMessage, depot: string): void;
	onUp(depot: string): void;
	onDown?(depot: string): void;
	log: Log;
	clock: Clock;
}

const LINK_PATH = '/link';
/** How the depot on this very server is named. */
export const OWN_DEPOT = 'own';

export function dialDepots(options: DepotLinksOptions): DepotLinks {
	const { peers, regions, socket } = options;
	const heard = new Heard();
	const links = new Map<string, { link: Link; where: string }>();

	const tellOthers = () => {
		const there = links.get(OWN_DEPOT)?.link.connected ?? false;
		for (const [depot, { link }] of links) if (depot !== OWN_DEPOT) link.send({ type: 'ownDepot', there });
	};

	const open = (depot: string, where: string, url: string, tls?: () => ReturnType<Peers['towards']>) => {
		const link = dial({
			url,
			...(tls ? { tls } : {}),
			credential: options.credential,
			hello: options.hello,
			isKnown: (text) => heard.isRepeated(text, depot),
			onMessage(message) {
				if (message.type === 'servers') return void peers?.take(message);
				const news = message.type === 'wants' ? heard.unsaid(message, depot) : message;
				if (news) options.onMessage(news, depot);
			},
			onUp: () => {
				if (depot === OWN_DEPOT) tellOthers();
				else if (links.get(OWN_DEPOT)?.link.connected) link.send({ type: 'ownDepot', there: true });
				options.onUp(depot);
			},
			onDown: () => {
				if (depot === OWN_DEPOT) tellOthers();
				options.onDown?.(depot);
			},
			log: options.log,
			clock: options.clock,
		});
		links.set(depot, { link, where });
	};

	const look = () => {
		const wanted = new Map(
			(peers?.others('depot', regions) ?? [])
				.filter((peer) => peer.depotPort !== null)
				.map(({ name, host, depotPort, spki }) => [name, { url: `wss://${inUrl(host)}:${depotPort}${LINK_PATH}`, spki }]),
		);
		for (const [depot, { link, where }] of links) {
			const peer = wanted.get(depot);
			if (depot === OWN_DEPOT || (peer && whereOf(peer) === where)) continue;
			links.delete(depot);
			link.close();
			options.onDown?.(depot);
		}
		for (const [name, peer] of wanted) if (!links.has(name)) open(name, whereOf(peer), peer.url, () => peers!.towards(name));
	};

	if (socket !== null) open(OWN_DEPOT, '', `ws+unix:${socket}:${LINK_PATH}`);
	look();
	const stop = peers?.onChange(look);
	return {
		send(message) {
			let any = false;
			for (const { link } of links.values()) any = link.send(message) || any;
			return any;
		},
		close() {
			stop?.();
			for (const { link } of links.values()) link.close();
			links.clear();
		},
	};
}

/** What is only ever news once, whoever says it: wants have versions, and reports of instances an order (but for older agents'). */
const SAID_ONCE = /^\{"type":"(?:wants"|instances".*"order":)/s;
const REPEATS_REMEMBERED = 32;
const MAX_REPEAT_LENGTH = 256 * 1024;

/** Which depot said what first: what the others say of it is no news. */
class Heard {
	/** Frame → the depot that sent it. Three depots say the same within milliseconds, and to read a frame costs more than to compare it. */
	readonly #frames = new Map<string, string>();
	readonly #newest = new Map<string, Version & { depot: string }>();

	/** Another depot sent the same words a moment ago. */
	isRepeated(text: string, depot: string): boolean {
		if (text.length > MAX_REPEAT_LENGTH || !SAID_ONCE.test(text)) return false;
		const first = this.#frames.get(text);
		if (first !== undefined) return first !== depot;
		if (this.#frames.size >= REPEATS_REMEMBERED) this.#frames.delete(this.#frames.keys().next().value!);
		this.#frames.set(text, depot);
		return false;
	}

	/** What of it was not said by another depot before; null: nothing. */
	unsaid(message: Wants, depot: string): Wants | null {
		const news = message.wants.filter((want) => {
			const known = this.#newest.get(wantKey(want));
			if (known && known.depot !== depot && compareVersions(want, known) <= 0) return false;
			if (!known || compareVersions(want, known) > 0) this.#newest.set(wantKey(want), { epoch: want.epoch, version: want.version, depot });
			return true;
		});
		if (news.length === message.wants.length) return message;
		return news.length === 0 ? null : { ...message, wants: news };
	}
}

function whereOf(peer: { url: string; spki: string }): string {
	return `${peer.url} ${peer.spki}`;
}

/** An address of IP version 6 stands in brackets. */
export function inUrl(host: string): string {
	return host.includes(':') ? `[${host}]` : host;
}
