import type { ConnectionOptions } from 'node:tls';
import type { Clock } from '#clock/clock.ts';
import type { Log } from '#log/log.ts';
import { dial, type Link } from '#wire/link.ts';
import type { DownMessage, Hello, UpMessage } from '#wire/region.ts';

/**
 * A link to every address of control: each may be another replica, which knows only what is said to it. Two addresses of
 * one replica do no harm, because all but answers is said over and over anyway, and answers go to the link that asked.
 */
export class ControlLinks {
	readonly #of: ControlLinksOptions;
	readonly #links = new Map<string, Link>();
	#closed = false;

	constructor(options: ControlLinksOptions) {
		this.#of = options;
		this.look();
	}

	/** Dials the addresses that are new, and lets go of those that are none any more. */
	look(): void {
		if (this.#closed) return;
		const wanted = new Set(this.#of.addresses());
		for (const [address, link] of this.#links) {
			if (wanted.has(address)) continue;
			this.#links.delete(address);
			link.close();
			this.#of.onDown({ address, send: () => false });
		}
		for (const address of wanted) if (!this.#links.has(address)) this.#links.set(address, this.#dial(address));
	}

	/** false: nobody heard it. */
	send(message: UpMessage): boolean {
		let any = false;
		for (const link of this.#links.values()) any = link.send(message) || any;
		return any;
	}

	close(): void {
		this.#closed = true;
		for (const link of this.#links.values()) link.close();
		this.#links.clear();
	}

	#dial(address: string): Link {
		const { tls, credential, hello, onMessage, onUp, onDown, log, clock } = this.#of;
		const secure = address.startsWith('https:');
		const control: Control = { address, send: (message) => this.#links.get(address)?.send(message) ?? false };
		return dial({
			url: `${address.replace(/^http/, 'ws').replace(/\/$/, '')}/link`,
			...(secure && tls ? { tls } : {}),
			credential,
			// Control takes a link of the same name for the successor of the one before.
			hello: () => (secure ? { ...hello(), name: `depot ${address}` } : hello()),
			onMessage: (message, text) => onMessage(message, text, control),
			onUp: () => onUp(control),
			onDown: () => onDown(control),
			log,
			clock,
		});
	}
}

/** One address of control, as the relay speaks to it. */
export interface Control {
	address: string;
	/** false: it is away. */
	send: (message: UpMessage) => boolean;
}

export interface ControlLinksOptions {
	/** `http://127.0.0.1:7070`, or `https://…` from another machine. Asked at each `look`. */
	addresses: () => readonly string[];
	/** For `https`. */
	tls?: () => ConnectionOptions;
	credential: () => string;
	hello: () => Hello;
	onMessage: (message: DownMessage, text: string, control: Control) => void;
	onUp: (control: Control) => void;
	onDown: (control: Control) => void;
	log: Log;
	clock: Clock;
}
