import { mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import type { Clock, Timer } from '#clock/clock.ts';
import type { Log } from '#log/log.ts';
import { instance, releaseSpec, reportOrder, version, want } from '#wire/region.ts';
import type { Serving } from './serving.ts';

/**
 * What the edge knows, on its own disk: with it an edge starts and serves while depot and control are away. One file
 * a (region, app, environment), written shortly after it changed and off the path of the change.
 */
export class Disk {
	readonly #directory: string;
	readonly #clock: Clock;
	readonly #log: Log;
	readonly #dirty = new Set<Serving>();
	#timer: Timer | null = null;
	#writing: Promise<void> = Promise.resolve();

	constructor(directory: string, clock: Clock, log: Log) {
		this.#directory = directory;
		this.#clock = clock;
		this.#log = log;
		mkdirSync(directory, { recursive: true, mode: 0o700 });
	}

	/** A file that can't be read is set aside with a warning: the depot will tell again. */
	load(): Remembered[] {
		const names = readdirSync(this.#directory);
		for (const name of names) if (name.endsWith(DRAFT)) rmSync(join(this.#directory, name), { force: true });
		return names.filter((name) => name.endsWith('.json')).flatMap((name) => {
			const file = join(this.#directory, name);
			try {
				return [remembered.parse(JSON.parse(readFileSync(file, 'utf8')))];
			} catch (error) {
				this.#log.warn('edge.memory_unreadable', { file, error });
				return [];
			}
		}); // prettier-ignore
	}

	changed(serving: Serving): void {
		this.#dirty.add(serving);
		this.#timer ??= this.#clock.after(WRITE_DELAY_MS, () => void this.flush());
	}

	/** Resolves when all that has changed is written. */
	flush(): Promise<void> {
		this.#timer?.cancel();
		this.#timer = null;
		const servings = [...this.#dirty];
		this.#dirty.clear();
		this.#writing = this.#writing.then(async () => {
			for (const serving of servings) await this.#write(serving);
		});
		return this.#writing;
	}

	async #write(serving: Serving): Promise<void> {
		if (serving.wanted === null) return;
		const reports = [...serving.reports()];
		const known: Remembered = {
			wanted: serving.wanted,
			obeyed: serving.obeyed,
			releases: [...serving.releases.values()].map(({ spec }) => spec),
			reports: Object.fromEntries(reports.map(([server, { instances }]) => [server, instances])),
			obeys: Object.fromEntries(reports.flatMap(([server, { obeys }]) => (obeys ? [[server, obeys]] : []))),
			orders: Object.fromEntries(reports.flatMap(([server, { order }]) => (order ? [[server, order]] : []))),
		};
		const file = join(this.#directory, `${serving.region}.${serving.app}.${serving.environment}.json`);
		try {
			await writeFile(file + DRAFT, JSON.stringify(known), { mode: 0o600 });
			await rename(file + DRAFT, file);
		} catch (error) {
			// A full disk must not stop the traffic: what is known stays in memory.
			this.#log.error('edge.memory_not_written', { file, error });
		}
	}
}

const remembered = z.object({
	wanted: want,
	obeyed: want.nullable(),
	releases: z.array(releaseSpec),
	/** Server → what its agent said last. */
	reports: z.record(z.string(), z.array(instance)),
	/** Server → the version its agent obeyed when it said that. */
	obeys: z.record(z.string(), version).optional(),
	/** Server → which of its reports that was. */
	orders: z.record(z.string(), reportOrder).optional(),
});
export type Remembered = z.infer<typeof remembered>;

const DRAFT = '.draft';
/** Long enough for a walk's last messages to come together, and off the path of the swing. */
const WRITE_DELAY_MS = 250;
