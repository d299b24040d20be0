import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Log } from '#log/log.ts';
import { Peers } from './peers.ts';
import { serverIdentity, type ServerIdentity } from './server-identity.ts';

/** A joined server as its programs know it: who it is, and whom it may speak to. */
export interface Joined {
	identity: ServerIdentity;
	peers: Peers;
}

/**
 * Programs of a joined server have `identity: "<data>/server"` in their settings; those of control's own machine have
 * none, and speak to nobody but each other. @throws when `server.json` is missing or is none
 */
export function openJoined(directory: string | undefined, log: Log): Joined | null {
	if (directory === undefined) return null;
	const identity = serverIdentity.parse(JSON.parse(readFileSync(join(directory, 'server.json'), 'utf8')));
	return { identity, peers: new Peers({ directory, server: identity.server, log }) };
}
