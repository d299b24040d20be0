import { join } from 'node:path';
import { z } from 'zod';
import { systemClock } from '#clock/clock.ts';
import { createLog } from '#log/log.ts';
import { removePidFile, writePidFile } from '#process/pid-file.ts';
import { readCredentialFile } from '#wire/credential.ts';
import { regionName } from '#wire/names.ts';
import { openDepot } from './depot.ts';

const settingsSchema = z.object({
	data: z.string(),
	/** Only where regions have depots of their own: `depot-fra`. */
	name: z.string().default('depot'),
	regions: z.array(regionName).min(1),
	/** Control's address. */
	upstream: z.url(),
	depotSocket: z.string(),
	credentialFile: z.string(),
});

/** The program `depot`. */
export async function main(settings: unknown): Promise<void> {
	const { data, name, regions, upstream, depotSocket, credentialFile } = settingsSchema.parse(settings);
	const log = createLog({ role: name });
	const depot = await openDepot({
		dir: join(data, name),
		socket: depotSocket,
		regions,
		upstream,
		credential: () => readCredentialFile(credentialFile),
		log,
		clock: systemClock,
	});
	const stop = () => {
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
	process.once('SIGTERM', stop).once('SIGINT', stop);
	writePidFile(data, name);
	process.stdout.write('ready\n');
}
