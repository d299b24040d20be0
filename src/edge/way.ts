import { connect, type Socket } from 'node:net';

/** How an instance is reached: directly, or through the agent of another server. */
export interface Way {
	/** false: its server is not there at the moment. */
	readonly reachable: boolean;
	/** Another server's agent is on it. */
	readonly far: boolean;
	/** A connection that is being made, or was made in advance. */
	open(): Opened;
}

export interface Opened {
	socket: Socket;
	/** The other end says `ok` before anything is to be counted on, or `no` and why not; then bytes of the instance. */
	greets: boolean;
}

/** To `unix:/path.sock`, `tcp:host:port` or `tcp:[v6]:port`. @throws when it is none of these */
export function directWay(address: string): Way {
	const where = connectOptions(address);
	return {
		reachable: true,
		far: false,
		open: () => ({ socket: connect(where), greets: false }),
	};
}

export function connectOptions(address: string): { path: string } | { host: string; port: number } {
	if (address.startsWith('unix:')) return { path: address.slice('unix:'.length) };
	const match = /^tcp:(?:\[([^\]]+)\]|([^:]+)):(\d{1,5})$/.exec(address);
	if (!match) throw new Error(`not an instance's address: ${address}`);
	return { host: match[1] ?? match[2] ?? '', port: Number(match[3]) };
}
