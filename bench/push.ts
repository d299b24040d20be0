import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { editHandlers, generateApi } from './generate.ts';
import { BenchJibe } from './jibe.ts';
import { percentile, type Row } from './row.ts';

/** `git push`, from a cold process to its end: three handlers of a 217-module API that are live in a region then, and a commit that changes nothing. */
const APP = 'api';
const HOST = `${APP}.localhost`;
const RUNS = 12;
const RUNS_NOOP = 12;
const EDITED = 3;
/** Whoever edits by hand takes longer than this. */
const THINK_MS = 1_000;
const PUSH_LIMIT_MS = 120_000;
const TESTS = { unit: { run: 'node --version', inputs: ['src/**'] } };

export async function bench(): Promise<Row[]> {
	const jibe = new BenchJibe();
	try {
		await jibe.up(1);
		const pusher = new Pusher(jibe);
		// The first begins a builder, and installs what the lockfile names.
		await pusher.changed();
		await pusher.changed();
		const live = await pusher.times(RUNS, () => pusher.changed());
		const noop = await pusher.times(RUNS_NOOP, () => pusher.unchanged());
		return [
			{ row: 'push-live-p50', value: percentile(live, 0.5), unit: 'ms', bar: 1500, goal: 600 },
			{ row: 'push-noop-p50', value: percentile(noop, 0.5), unit: 'ms', bar: 300, goal: 150 },
		];
	} finally {
		await jibe.end();
	}
}

class Pusher {
	readonly #jibe: BenchJibe;
	readonly #dir: string;
	#seed = 0;

	constructor(jibe: BenchJibe) {
		this.#jibe = jibe;
		this.#dir = join(jibe.place, APP);
		generateApi(this.#dir, { modules: 217, app: APP, nodeModules: 'none', config: { test: TESTS } });
	}

	async times(count: number, once: () => Promise<number>): Promise<number[]> {
		const all: number[] = [];
		for (let n = 0; n < count; n++) {
			all.push(await once());
			await new Promise((resolve) => setTimeout(resolve, THINK_MS));
		}
		return all;
	}

	async changed(): Promise<number> {
		if (this.#seed === 0) await this.#git('init', '-q', '-b', 'main');
		const seed = ++this.#seed;
		const [path] = editHandlers(this.#dir, EDITED, seed);
		await this.#commit(`change ${seed}`);
		const { ms } = await this.#push();
		await this.#jibe.allAnswer(HOST, path!, `e${seed}`);
		return ms;
	}

	async unchanged(): Promise<number> {
		await this.#commit('nothing');
		const { ms, said } = await this.#push();
		if (!said.includes('unit (from the cache)') || !said.includes('That is what serves')) throw new Error(`not from the cache:\n${said}`);
		return ms;
	}

	async #commit(subject: string): Promise<void> {
		await this.#git('add', '-A');
		await this.#git('-c', 'user.name=Bench', '-c', 'user.email=bench@example.com', 'commit', '-q', '--allow-empty', '-m', subject);
	}

	#push(): Promise<{ ms: number; said: string }> {
		const { url } = JSON.parse(readFileSync(join(this.#jibe.data, 'endpoint.json'), 'utf8')) as { url: string };
		return this.#git('push', new URL(`/git/${APP}.git`, url).href, 'main');
	}

	#git(...words: string[]): Promise<{ ms: number; said: string }> {
		const token = readFileSync(join(this.#jibe.data, 'admin.token'), 'utf8').trim();
		const config = {
			GIT_CONFIG_GLOBAL: '/dev/null',
			GIT_CONFIG_COUNT: '1',
			GIT_CONFIG_KEY_0: 'credential.helper',
			GIT_CONFIG_VALUE_0: '!helper() { echo username=jibe; echo "password=$TOKEN"; }; helper',
		};
		const before = performance.now();
		const child = spawn('git', words, {
			cwd: this.#dir,
			env: { PATH: process.env['PATH'], HOME: this.#jibe.place, TOKEN: token, ...config },
			stdio: ['ignore', 'ignore', 'pipe'],
			timeout: PUSH_LIMIT_MS,
		});
		let said = '';
		child.stderr.setEncoding('utf8').on('data', (text: string) => (said += text));
		return new Promise((resolve, reject) => {
			child.once('error', reject);
			child.once('close', (code) => {
				if (code === 0) resolve({ ms: performance.now() - before, said });
				else reject(new Error(`git ${words[0]} ended with ${code}:\n${said}`));
			});
		});
	}
}
