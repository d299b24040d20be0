import { sha256 } from '#digest/digest.ts';
import { UPLOAD_TYPE, encodeUpload } from '#wire/upload.ts';
import { BenchControl } from './control.ts';
import type { Row } from './row.ts';

/**
 * 500 builds a minute, each with 20 transitions and 200 lines of log, as builders send them: a build takes 4 s, its lines
 * come in batches, as builders gather them for 100 ms. CPU of control and PostgreSQL, which have nothing else to do.
 */
const BUILDS_PER_MINUTE = 500;
const FOR_MS = Number(process.env['JIBE_BENCH_MS'] ?? 120_000);
const BUILD_MS = 4_000;
const TRANSITIONS = 20;
const BATCHES = 20;
const LINES_EACH = 10;
const APPS = 50;
/** As many as run at once, and some that wait. */
const BUILDERS = 50;
const PLATFORM = 'linux-x64-glibc';
const STATES = ['Building', 'Testing', 'Packaging', 'Uploading'];

export async function bench(): Promise<Row[]> {
	const control = new BenchControl();
	try {
		await control.start();
		const load = new Load(control);
		await load.sources();
		await load.run(10_000);
		const [cpu, at] = [control.cpuSeconds(), performance.now()];
		const { builds, requests } = await load.run(FOR_MS);
		const wallS = (performance.now() - at) / 1000;
		const cores = (control.cpuSeconds() - cpu) / wallS;
		process.stderr.write(`${builds} builds, ${requests} requests in ${wallS.toFixed(1)} s\n`);
		return [{ row: 'load-cpu', value: Math.round(cores * 100) / 100, unit: 'cores', bar: 1.2, goal: 0.6 }];
	} finally {
		await control.stop();
	}
}

interface Job {
	id: string;
	attempt: number;
}

class Load {
	readonly #control: BenchControl;
	#ended = 0;
	#requests = 0;
	#queued = 0;
	#running = false;

	constructor(control: BenchControl) {
		this.#control = control;
	}

	async sources(): Promise<void> {
		for (let n = 0; n < APPS; n++)
			await this.#ask('PUT', `/api/v1/apps/app-${n}/blobs`, this.#control.admin, encodeUpload({}, [source(n)]), UPLOAD_TYPE);
	}

	async run(forMs: number): Promise<{ builds: number; requests: number }> {
		const [before, asked] = [this.#ended, this.#requests];
		if (!this.#running) {
			this.#running = true;
			for (let n = 0; n < BUILDERS; n++) void this.#builder(`load-${n}`).catch(() => {}); // control stops at the end
		}
		const begin = performance.now();
		const builds = Math.round((forMs / 60_000) * BUILDS_PER_MINUTE);
		for (let n = 0; n < builds; n++) {
			await until(begin + (n * 60_000) / BUILDS_PER_MINUTE);
			void this.#enqueue();
		}
		await until(begin + forMs);
		while (this.#ended - before < builds) await until(performance.now() + 20);
		return { builds: this.#ended - before, requests: this.#requests - asked };
	}

	async #enqueue(): Promise<void> {
		const n = this.#queued++;
		const none = { commit: null, author: null, subject: null, ancestors: [], platform: null, why: null };
		const build = {
			environment: 'production',
			source: { kind: 'tar', digest: sha256(source(n % APPS)) },
			directory: '',
			branch: `branch-${n}`,
			force: true,
			now: false,
			...none,
		};
		await this.#ask('POST', `/api/v1/apps/app-${n % APPS}/builds`, this.#control.admin, build);
	}

	async #builder(worker: string): Promise<never> {
		for (;;) {
			const text = await this.#ask('POST', '/api/v1/builds/claim', this.#control.credential, { worker, platform: PLATFORM });
			if (text !== '') await this.#build(worker, (JSON.parse(text) as { job: Job }).job);
		}
	}

	async #build(worker: string, { id, attempt }: Job): Promise<void> {
		const about = (what: string, more: object) =>
			this.#ask('POST', `/api/v1/builds/${id}/${what}`, this.#control.credential, { worker, attempt, ...more });
		let over = false;
		const beat = async () => {
			while (!over) await about('beat', { hold: true });
		};
		beat().catch(() => {}); // refused once the build has ended
		const begin = performance.now();
		// The state itself is a transition, each step is two; the end is the last.
		const steps = (TRANSITIONS - STATES.length - 1) / 2;
		for (let n = 0; n < BATCHES; n++) {
			const at = Date.now();
			const state = n % 5 === 0 ? (STATES[n / 5] ?? null) : null;
			const name = `step-${Math.floor(n / 2)}`;
			const ended = n % 2 === 1;
			const kind = n < BATCHES / 2 ? 'build' : 'test';
			const step = { name, kind, state: ended ? 'passed' : 'running', cached: false, startedAt: at, endedAt: ended ? at : null, exitCode: 0, key: null, summary: null }; // prettier-ignore
			if (n < steps * 2) await about('stages', { state, at, steps: [step] });
			else if (state !== null) await about('stages', { state, at, steps: [] });
			const lines = Array.from({ length: LINES_EACH }, (_, line) => ({ at, step: name, stream: 'out', text: `line ${n * LINES_EACH + line} of what a compiler or a test prints, about as long as such lines are` })); // prettier-ignore
			await about('log', { from: n * LINES_EACH, lines });
			await until(begin + ((n + 1) * BUILD_MS) / BATCHES);
		}
		over = true;
		await about('end', { state: 'BuildFailed', reason: 'bench', detail: null, at: Date.now() });
		this.#ended++;
	}

	async #ask(method: string, path: string, token: string, body: object | Buffer, type?: string): Promise<string> {
		this.#requests++;
		const { status, text } = await this.#control.ask(method, path, token, body, type);
		if (status >= 300) throw new Error(`${path}: ${status} ${text}`);
		return text;
	}
}

function source(n: number): Buffer {
	return Buffer.from(`the source of ${n}`);
}

function until(at: number): Promise<void> {
	const ms = at - performance.now();
	return ms <= 0 ? Promise.resolve() : new Promise((resolve) => setTimeout(resolve, ms));
}
