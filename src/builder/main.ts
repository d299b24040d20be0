import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { createLog } from '#log/log.ts';
import { removePidFile, writePidFile } from '#process/pid-file.ts';
import { readCredentialFile } from '#wire/credential.ts';
import { openJoined } from '#wire/joined.ts';
import { connectControl } from './control.ts';
import { openSteps } from './steps/open.ts';
import { work } from './work.ts';
import { Workshop } from './workshop.ts';

const settingsSchema = z.object({
	data: z.string(),
	/** `builder-0`: several of them on a machine are a pool. */
	name: z.string(),
	server: z.string(),
	/** Every address of control. */
	upstreams: z.array(z.url()).min(1),
	/** `<data>/server` on a joined server. */
	identity: z.string().optional(),
	credentialFile: z.string(),
	/** Ends after so long without a job; absent: never. */
	idleMs: z.number().positive().optional(),
	allowUnsandboxed: z.boolean().default(false),
});

/** The program `builder`. */
export async function main(settings: unknown): Promise<void> {
	const { data, name, server, upstreams, identity, credentialFile, idleMs = null, allowUnsandboxed } = settingsSchema.parse(settings);
	const log = createLog({ role: name });
	const credential = () => readCredentialFile(credentialFile);
	const joined = openJoined(identity, log);
	const { installation } = credential();
	mkdirSync(join(data, 'builder'), { recursive: true, mode: 0o700 });
	const workshop = new Workshop({ data, name, server, allowUnsandboxed, log });
	const control = connectControl({
		addresses: () => [...new Set([...(joined?.peers.newest.control ?? []), ...upstreams])],
		...(joined ? { tls: () => joined.peers.towardsControl(installation) } : {}),
		credential: () => credential().credential,
	});
	const [leaving, retiring] = [new AbortController(), new AbortController()];
	// Another one takes its place once it has done what it does.
	process.once('SIGUSR2', () => retiring.abort());
	process.once('SIGTERM', () => leaving.abort()).once('SIGINT', () => leaving.abort());
	writePidFile(data, name);
	process.stdout.write('ready\n');
	try {
		await work({ control, workshop, openSteps, server, idleMs, leaving: leaving.signal, retiring: retiring.signal, log });
	} finally {
		control.close();
		await workshop.close();
		removePidFile(data, name);
	}
	process.exit(0);
}
