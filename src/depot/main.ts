import { join } from 'node:path';
import { z } from 'zod';
import { systemClock } from '#clock/clock.ts';
import { createLog } from '#log/log.ts';
import { removePidFile, writePidFile } from '#process/pid-file.ts';
import { readCredentialFile } from '#wire/credential.ts';
import { openJoined } from '#wire/joined.ts';
import { regionName } from '#wire/names.ts';
import { openDepot } from './depot.ts';

const settingsSchema = z.object({
	data: z.string(),
	/** Only where regions have depots of their own: `depot-fra`. */
	name: z.string().default('depot'),
	regions: z.array(regionName).min(1),
	/** Every address of control; the first alone is needed. `https` ones are dialled with the identity. */
	upstreams: z.array(z.url()).min(1),
	/** `<data>/server` on a joined server: key and certificate of its own, and the list of the region's servers. */
	identity: z.string().optional(),
	/** Where the region's other servers reach it over TLS. */
	listen: z.object({ host: z.string(), port: z.int() }).optional(),
	depotSocket: z.string(),
	credentialFile: z.string(),
});

/** The program `depot`. */
export async function main(settings: unknown): Promise<void> {
	const { data, name, regions, upstreams, identity, listen, depotSocket, credentialFile } = settingsSchema.parse(settings);
	const log = createLog({ role: name });
	const depot = await openDepot({
		dir: join(data, name),
		socket: depotSocket,
		regions,
		upstreams,
		joined: openJoined(identity, log),
		listen,
		credential: () => readCredentialFile(credentialFile),
		log,
		clock: systemClock,
	});
	let stopping = false;
	const stop = () => {
		if (stopping) return;
		stopping = true;
		depot.close().then(
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
