import { mkdir, open, readFile, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import type { Clock, Timer } from '#clock/clock.ts';
import type { Log } from '#log/log.ts';
import { instance, releaseSpec, reportOrder, version, want } from '#wire/region.ts';
import type { BoardState } from './board.ts';

/** What a depot keeps on disk (`board.json`), so that it can answer its region after a restart while control is away. */

/** Changes come in bursts, and a deploy is over by then; control and the agents say again what a crash within this time loses. */
const WRITE_DELAY_MS = 1_000;

const group = z.object({
	region: z.string(),
	app: z.string(),
	environment: z.string(),
	obeys: version.optional(),
	order: reportOrder.optional(),
	instances: z.array(instance),
});
const remembered = z.object({
	installation: z.string(),
	wants: z.array(want),
	releases: z.array(releaseSpec),
	groups: z.array(z.object({ server: z.string(), group })),
	edges: z.array(z.object({ id: z.string(), regions: z.array(z.string()) })),
});
export type Remembered = z.infer<typeof remembered>;

/** Empty when there is none, when it is another installation's, or when it can't be read (logged): control will say it all again. */
export async function recall(dir: string, installation: string, log: Log): Promise<Remembered> {
	const nothing: Remembered = { installation, wants: [], releases: [], groups: [], edges: [] };
	try {
		const found = remembered.parse(JSON.parse(await readFile(join(dir, 'board.json'), 'utf8')));
		if (found.installation === installation) return found;
		log.warn('board.other_installation', { theirs: found.installation });
	} catch (error) {
		if ((error as NodeJS.ErrnoException).code !== 'ENOENT') log.error('board.unreadable', { dir, error });
	}
	return nothing;
}

export interface Keeper {
	changed(): void;
	/** Writes what is still unwritten. */
	close(): Promise<void>;
}

/** Writes `state()` some time after a change: one write at a time, each a whole file put in place by rename. */
export function keep(
	dir: string,
	state: () => BoardState & { installation: string; edges: Remembered['edges'] },
	log: Log,
	clock: Clock,
): Keeper {
	let timer: Timer | null = null;
	let writing: Promise<void> = Promise.resolve();
	const write = () => {
		timer = null;
		writing = writing
			.then(() => replaceFile(dir, 'board.json', JSON.stringify(state())))
			.catch((error: unknown) => log.error('board.unwritten', { dir, error }));
	};
	return {
		changed() {
			timer ??= clock.after(WRITE_DELAY_MS, write, { idle: true });
		},
		async close() {
			if (timer) {
				timer.cancel();
				write();
			}
			await writing;
		},
	};
}

async function replaceFile(dir: string, name: string, text: string): Promise<void> {
	await mkdir(dir, { recursive: true, mode: 0o700 });
	const draft = join(dir, `${name}.tmp`);
	const file = await open(draft, 'w', 0o600);
	try {
		await file.writeFile(text);
		await file.datasync();
	} finally {
		await file.close();
	}
	await rename(draft, join(dir, name));
}
