import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { z } from 'zod';
import { systemClock as clock } from '#clock/clock.ts';
import { createLog } from '#log/log.ts';
import { runDirectory } from '#process/directory.ts';
import { startPostgres, type Postgres } from '#state/embedded.ts';
import type { SweptStore } from '#store/blob-store.ts';
import { openStore } from '#store/open-store.ts';
import { LoadError } from '#state/load.ts';
import { BackupError } from '#wire/backup-file.ts';
import { asRefusal } from './refusals.ts';
import { restoreMasterKey } from './master-key.ts';
import { restore } from './restore.ts';

/** Control as `jibe restore` starts it: fills an empty installation from a file, tells how far it is, and ends. */

export const restoreSettings = z.object({
	data: z.string(),
	databaseUrl: z.string().optional(),
	store: z.string().optional(),
	restore: z.object({ file: z.string() }),
});

/** How often it tells, at most. */
const TELL_EACH_MS = 100;

export type RestoreTold =
	| { progress: { bytes: number; of: number; blobs: number; blobsOf: number | null } }
	| { restored: { epoch: number; blobs: number; bytes: number; installation: string; createdAt: number; keys: boolean; up: object } }
	| { failed: { code: string; message: string } };

export async function restoreProgram(settings: z.infer<typeof restoreSettings>): Promise<void> {
	const log = createLog({ role: 'control' });
	let postgres: Postgres | null = null;
	let store: SweptStore | null = null;
	let toldAt = Number.NEGATIVE_INFINITY;
	try {
		const { header, ...done } = await restore({
			file: settings.restore.file,
			key: await keyFromStdin(),
			clock,
			async places() {
				const { data, databaseUrl } = settings;
				store = await openStore(data, settings.store, log);
				if (databaseUrl !== undefined) return { database: databaseUrl, store };
				postgres = await startPostgres({ data, runDir: runDirectory(data), log, clock });
				return { database: postgres.connection, store };
			},
			masterKey: (text) => restoreMasterKey(settings.data, text),
			progress(progress) {
				if (clock.monotonic() - toldAt < TELL_EACH_MS) return;
				toldAt = clock.monotonic();
				tell({ progress });
			},
		});
		const { installation, createdAt, keys, up } = header;
		tell({ restored: { ...done, installation, createdAt, keys, up } });
	} catch (error) {
		log.error('restore.failed', { error });
		tell({ failed: failure(error) });
		process.exitCode = 1;
	} finally {
		await (store as SweptStore | null)?.close();
		await (postgres as Postgres | null)?.stop();
	}
}

/** One line: the key in base64, or nothing. It stands neither in the environment nor among the arguments. */
async function keyFromStdin(): Promise<Buffer | null> {
	const lines = createInterface({ input: process.stdin });
	const [line] = (await Promise.race([once(lines, 'line'), once(lines, 'close')])) as [string?];
	lines.close();
	process.stdin.destroy();
	return line ? Buffer.from(line, 'base64') : null;
}

function failure(error: unknown): { code: string; message: string } {
	if (error instanceof BackupError || error instanceof LoadError) return { code: error.code, message: error.message };
	const refusal = asRefusal(error);
	if (refusal) return { code: refusal.code, message: refusal.message };
	return { code: 'restore_failed', message: error instanceof Error ? error.message : String(error) };
}

function tell(what: RestoreTold): void {
	process.stdout.write(`${JSON.stringify(what)}\n`);
}
