import type { Log } from '#log/log.ts';
import { ask } from '../server.ts';
import { BuilderPool } from './builders.ts';
import { adminServer, controlReady, hasCredential, loginAddress, obtainCredential, regionsReady } from './control.ts';
import type { Ground, Starting } from './ground.ts';
import { DEFAULT_BUILDERS, edgeUrl, remember, writeEndpoint, type Layout } from './installation.ts';
import { builderPrograms, controlProgram, healthOf, regionPrograms, type Program } from './programs.ts';
import { tellParent } from './told.ts';

/** Shorter than what a request waits for an answer. */
const DEMAND_WAIT_MS = 20_000;

/** Control's own machine: control, and the programs of the regions that are there. */
export class LocalGround implements Ground {
	readonly data: string;
	readonly programs: readonly Program[];
	readonly lookEachMs = 600_000;
	readonly #layout: Layout;
	readonly #log: Log;
	readonly #builders: BuilderPool;
	/** What `jibe login` takes on other machines. */
	#login: string | null = null;

	constructor(layout: Layout, log: Log) {
		this.data = layout.data;
		this.#layout = layout;
		this.#log = log;
		this.programs = [controlProgram(layout), ...regionPrograms(layout)];
		this.#builders = new BuilderPool({
			data: layout.data,
			programs: builderPrograms(layout),
			min: (layout.builders ?? DEFAULT_BUILDERS).min,
			demand: async () =>
				(await ask(adminServer(layout), { path: `/api/v1/builds/queue?wait=${DEMAND_WAIT_MS}` })) as { claimable: number; idle: number },
			admit: async (program) => {
				if (!hasCredential(program)) await obtainCredential(layout, program);
			},
			log,
		});
	}

	remember(runs: Record<string, string>): void {
		remember(this.#layout, runs);
	}

	/** What has its credential from the last time is started beside control, the others once control has given them one. */
	async open({ keepers, begin, replaceStale, given }: Starting): Promise<void> {
		writeEndpoint(this.#layout);
		const early = keepers.filter(({ program }) => hasCredential(program));
		const late = keepers.filter((keeper) => !early.includes(keeper));
		tellParent({ now: 'Starting control…' });
		await Promise.all(early.map(begin));
		await controlReady(this.#layout, given);
		tellParent({ now: 'Starting agents and edges…' });
		await Promise.all(
			late.map(async (keeper) => {
				await obtainCredential(this.#layout, keeper.program);
				await begin(keeper);
			}),
		);
		await replaceStale();
		await regionsReady(this.#layout, given, (missing) => tellParent({ now: `Waiting for ${missing.join(', ')}…` }));
		this.#login = this.#layout.listen ? await loginAddress(this.#layout) : null;
		await this.#builders.open();
	}

	release(): void {
		this.#builders.release();
	}

	health(program: Program): ReturnType<Ground['health']> {
		return healthOf(program, this.#layout);
	}

	/** Programs read their credential's file again when they connect. */
	async look(): Promise<void> {
		this.#builders.trimLogs();
		for (const program of this.programs) {
			if (hasCredential(program)) continue;
			await obtainCredential(this.#layout, program);
			this.#log.info('credential.renewed', { name: program.name });
		}
	}

	describe(): ReturnType<Ground['describe']> {
		const { data, regions, port } = this.#layout;
		return {
			url: `http://127.0.0.1:${port}`,
			edgeUrl: edgeUrl(this.#layout, 0),
			regions: regions.map((name, index) => ({ name, url: edgeUrl(this.#layout, index) })),
			data,
			...(this.#login === null ? {} : { login: this.#login }),
		};
	}
}
