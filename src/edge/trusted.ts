import { BlockList, isIP } from 'node:net';

/** The proxies in front of the edge whose `x-forwarded-*` are believed. */
export class Trusted {
	readonly #list: BlockList | null;

	/** Addresses and networks (`10.0.0.0/8`, `fd00::/8`); what is neither is left out. */
	constructor(proxies: readonly string[]) {
		this.#list = proxies.length === 0 ? null : new BlockList();
		for (const proxy of proxies) addTo(this.#list as BlockList, proxy);
	}

	has(address: string): boolean {
		if (this.#list === null) return false;
		const family = isIP(address);
		return family !== 0 && this.#list.check(address, family === 6 ? 'ipv6' : 'ipv4');
	}

	/** The client behind trusted proxies: the last address of the chain that is not one of them. */
	client(peer: string, forwardedFor: string): string {
		const chain = forwardedFor.split(',').map((part) => part.trim());
		for (let i = chain.length - 1; i >= 0; i--) {
			const address = chain[i] as string;
			if (isIP(address) === 0) return peer;
			if (!this.has(address)) return address;
		}
		return chain[0] || peer;
	}
}

function addTo(list: BlockList, proxy: string): void {
	const [address = '', bits] = proxy.split('/', 2);
	const version = isIP(address);
	if (version === 0) return;
	const family = version === 6 ? 'ipv6' : 'ipv4';
	if (bits === undefined) list.addAddress(address, family);
	else if (/^\d{1,3}$/.test(bits) && Number(bits) <= (version === 6 ? 128 : 32)) list.addSubnet(address, Number(bits), family);
}

/** An IPv4 peer on a dual-stack socket, as everybody writes it. */
export function plainAddress(address: string | undefined): string {
	return address === undefined ? '' : address.startsWith('::ffff:') ? address.slice('::ffff:'.length) : address;
}
