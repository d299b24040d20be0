import type { Exit } from '../failure.ts';

/** What the supervisor tells the `jibe up` that started it: JSON lines on its standard output, until nobody listens. */
export type Told =
	| { now: string }
	| { said: string }
	| { warning: string }
	| { ready: Ready }
	| { failed: { code: string; exit: Exit; message: string; hint: string | null } }
	| { stopped: true };

export interface Ready {
	url: string;
	edgeUrl: string;
	regions: { name: string; url: string }[];
	data: string;
	pid: number;
	/** Of these, so many were running already. */
	adopted: number;
	programs: number;
	/** The name of the server that this is, where control is on another machine. */
	server?: string;
	region?: string;
	/** For `jibe login` on other machines: address and fingerprint, where control listens for them. */
	login?: string;
}

let listening = true;
// The parent of a detached supervisor leaves once everything is ready.
process.stdout.on('error', () => (listening = false));

export function tellParent(message: Told): void {
	if (listening) process.stdout.write(`${JSON.stringify(message)}\n`);
}
