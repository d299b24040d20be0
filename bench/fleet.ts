import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { startFleet, type Fleet } from '../test/fixtures/fleet.ts';
import { noHosts } from '../test/fixtures/hosts.ts';
import { editHandlers, generateApi } from './generate.ts';
import { percentile, type Row } from './row.ts';

/**
 * A team's machines: control, two regions of five servers, and a developer's, each a network namespace with its own
 * address; the developer's `jibe` speaks to control over TLS, as do the servers. How long three changed handlers of a
 * 217-module API take until both regions serve them from a cold shell, near and far, and how often somebody had to be waited for.
 */
const APP = 'api';
const HOST = `${APP}.localhost`;
const EDITED = 3;
const RUNS = 7;
const NEAR_MS = 1;
const FAR_MS = 100;
/** So far that what a deploy takes otherwise, and how it varies, is little beside it. */
const COUNTED_MS = 1_000;
const COUNTED_RUNS = 3;
/** The pool of idle processes is filled again after a deploy; whoever edits by hand takes longer than this. */
const THINK_MS = 4_000;
const SETTLE_MS = 1_500;

export async function bench(): Promise<Row[]> {
	const why = noHosts();
	if (why !== false) throw new Error(why);
	await using fleet = await startFleet({ fra: 3, iad: 2 }, { roundTripMs: NEAR_MS });
	await fleet.signIn();
	const editor = new Editor(fleet);
	await editor.deploys(2);
	const near = await editor.deploys(RUNS);
	const regionsAre = async (ms: number) => {
		for (const server of fleet.servers) await fleet.hosts.roundTrip('control', server, ms);
	};
	await regionsAre(FAR_MS);
	const far = await editor.deploys(RUNS);
	const back = await editor.rollbacks(RUNS);
	await regionsAre(COUNTED_MS);
	const farRegions = await editor.deploys(COUNTED_RUNS);
	await regionsAre(NEAR_MS);
	await fleet.hosts.roundTrip('client', 'control', COUNTED_MS);
	const farDeveloper = await editor.deploys(COUNTED_RUNS);
	return [
		{ row: 'fleet-deploy-p50', value: percentile(near, 0.5), unit: 'ms', bar: 500, goal: 300 },
		{ row: 'fleet-deploy-wan-p50', value: percentile(far, 0.5), unit: 'ms', bar: 1500, goal: 900 },
		{ row: 'fleet-rollback-wan-p50', value: percentile(back, 0.5), unit: 'ms', bar: 600, goal: 350 },
		{ row: 'fleet-trips-cli', value: trips(near, farDeveloper), unit: 'count', bar: 4, goal: 3 },
		{ row: 'fleet-trips-region', value: trips(near, farRegions), unit: 'count', bar: 2, goal: 1 },
	];
}

/** What a longer way adds to the quickest, in ways there and back again: those that are waited for one after the other. */
function trips(near: readonly number[], far: readonly number[]): number {
	return Math.round((Math.min(...far) - Math.min(...near)) / (COUNTED_MS - NEAR_MS));
}

class Editor {
	readonly #fleet: Fleet;
	readonly #dir: string;
	readonly #releases: string[] = [];
	#seed = 0;

	constructor(fleet: Fleet) {
		this.#fleet = fleet;
		this.#dir = join(fleet.hosts.get('client').dir, APP);
		mkdirSync(this.#dir);
		generateApi(this.#dir, { modules: 217, app: APP, config: { instances: 3 } });
	}

	async deploys(count: number): Promise<number[]> {
		const done: number[] = [];
		for (let n = 0; n < count; n++) {
			const paths = editHandlers(this.#dir, EDITED, ++this.#seed);
			done.push(await this.#timed(['deploy']));
			await this.#answersEverywhere(paths[0]!, `e${this.#seed}`);
			await pause(THINK_MS);
		}
		return done;
	}

	/** To what stands by, and forth again. */
	async rollbacks(count: number): Promise<number[]> {
		const [before = '', last = ''] = this.#releases.slice(-2);
		const done: number[] = [];
		for (let n = 0; n < count; n++) {
			done.push(await this.#timed(['rollback', APP, '--to', n % 2 === 0 ? before : last, '--again']));
			await pause(SETTLE_MS);
		}
		return done;
	}

	async #timed(words: string[]): Promise<number> {
		const before = performance.now();
		const { json } = await this.#fleet.expect(0, 'client', [...words, '--json'], { cwd: this.#dir });
		const ms = performance.now() - before;
		const regions = json?.['regions'] as { name: string; state: string }[];
		if (json?.['state'] !== 'Deployed' || regions.length !== 2 || regions.some(({ state }) => state !== 'live'))
			throw new Error(`not live in both regions: ${JSON.stringify(json)}`);
		if (words[0] === 'deploy') this.#releases.push(String(json['release']));
		return ms;
	}

	/** @throws unless every server's edge serves it now */
	async #answersEverywhere(path: string, text: string): Promise<void> {
		const wrong = await this.#fleet.askAll(HOST, path, (body) => body.includes(text));
		if (wrong.length > 0) throw new Error(`not served by ${wrong.join(', ')}`);
	}
}

function pause(ms: number): Promise<void> {
	return new Promise((resolve) => setTimeout(resolve, ms));
}
