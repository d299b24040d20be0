import { once } from 'node:events';
import { sha256 } from '#digest/digest.ts';
import { UPLOAD_TYPE, encodeUpload } from '#wire/upload.ts';
import { BenchControl } from './control.ts';
import { percentile, type Row } from './row.ts';

/** Builds through control's own HTTP: queued as `jibe deploy --remote` does, claimed and ended as builders do. */
const REPOSITORIES = 50;
const JOBS = 500;
const BUILDERS = 16;
const LATENCY_ENQUEUES = 200;
const LATENCY_EACH_MS = 10;
const IDLE_BUILDERS = 50;
/** Of each app: one that is on its way is not queued again. */
const SOURCES = 20;
const PLATFORM = 'linux-x64-glibc';
const ended = { state: 'BuildFailed', reason: 'bench', detail: null };

export async function bench(): Promise<Row[]> {
	const control = new BenchControl();
	try {
		await control.start();
		const queue = new Queue(control);
		await queue.sources();
		// Once to warm up: PostgreSQL plans, V8 compiles.
		await queue.drain(REPOSITORIES * 2, BUILDERS);
		const perS = await queue.drain(JOBS, BUILDERS);
		const latencies = await queue.latencies();
		return [
			{ row: 'queue-jobs-per-s', value: Math.round(perS), unit: '1/s', bar: 500, goal: 1000 },
			{ row: 'queue-claim-p50', value: percentile(latencies, 0.5), unit: 'ms', bar: 10, goal: 3 },
			{ row: 'queue-claim-p99', value: percentile(latencies, 0.99), unit: 'ms', bar: 50, goal: 10 },
		];
	} finally {
		await control.stop();
	}
}

class Queue {
	readonly #control: BenchControl;
	#queued = 0;

	constructor(control: BenchControl) {
		this.#control = control;
	}

	/** What each app's builds are made of. */
	async sources(): Promise<void> {
		for (let n = 0; n < REPOSITORIES; n++) {
			const all = Array.from({ length: SOURCES }, (_, one) => source(n, one));
			const body = encodeUpload({}, all);
			const { status, text } = await this.#control.ask('PUT', `/api/v1/apps/${appOf(n)}/blobs`, this.#control.admin, body, UPLOAD_TYPE);
			if (status !== 200) throw new Error(`blobs: ${status} ${text}`);
		}
	}

	/** Jobs a second from the first claim to the last end. */
	async drain(jobs: number, builders: number): Promise<number> {
		for (let n = 0; n < jobs; n++) await this.enqueue(n % REPOSITORIES);
		const before = performance.now();
		let left = jobs;
		await Promise.all(
			Array.from({ length: builders }, async (_, n) => {
				const builder: Builder = { worker: `drain-${n}`, next: null };
				const more = () => left-- > 0;
				for (let going = more(); going;) {
					going = more();
					await this.#build(builder, { next: going });
				}
			}),
		);
		return (jobs / (performance.now() - before)) * 1000;
	}

	/** From before a build is asked for until a builder that waited has it. */
	async latencies(): Promise<number[]> {
		const askedAt = new Map<string, number>();
		const claimedAt = new Map<string, number>();
		let left = LATENCY_ENQUEUES;
		const builders = Array.from({ length: IDLE_BUILDERS }, async (_, n) => {
			const builder: Builder = { worker: `idle-${n}`, next: null };
			while (left > 0) {
				const id = await this.#build(builder, { claimed: (one) => claimedAt.set(one, performance.now()) });
				if (id !== null) left--;
			}
		});
		// Those that still wait when it is over hear that control stops.
		for (const builder of builders) builder.catch(() => {});
		await Promise.race([once(AbortSignal.timeout(300), 'abort'), ...builders]);
		const asked: Promise<void>[] = [];
		const begin = performance.now();
		for (let n = 0; n < LATENCY_ENQUEUES; n++) {
			const wait = begin + n * LATENCY_EACH_MS - performance.now();
			if (wait > 0) await new Promise((resolve) => setTimeout(resolve, wait));
			const at = performance.now();
			asked.push(this.enqueue(n % REPOSITORIES).then((id) => void askedAt.set(id, at)));
		}
		await Promise.all(asked);
		while (claimedAt.size < LATENCY_ENQUEUES) await new Promise((resolve) => setTimeout(resolve, 10));
		return [...askedAt].map(([id, at]) => claimedAt.get(id)! - at);
	}

	async enqueue(n: number): Promise<string> {
		const build = {
			environment: 'production',
			source: { kind: 'tar', digest: sha256(source(n, Math.floor(this.#queued / REPOSITORIES) % SOURCES)) },
			directory: '',
			commit: null,
			// Of one branch, the newer would supersede the older.
			branch: `branch-${this.#queued++}`,
			author: null,
			subject: null,
			ancestors: [],
			platform: null,
			why: null,
			force: true,
			now: false,
		};
		const { status, text } = await this.#control.ask('POST', `/api/v1/apps/${appOf(n)}/builds`, this.#control.admin, build);
		if (status !== 200) throw new Error(`enqueue: ${status} ${text}`);
		return (JSON.parse(text) as { id: string }).id;
	}

	/** Claims a job, unless the answer to its last one's end had it, and ends it. Null: there was none for a while. */
	async #build(builder: Builder, of: { claimed?: (id: string) => void; next?: boolean } = {}): Promise<string | null> {
		const job = builder.next ?? (await this.#claim(builder));
		if (job === null) return null;
		of.claimed?.(job.id);
		const { worker } = builder;
		const end = { worker, attempt: job.attempt, at: Date.now(), next: (of.next ?? true) ? PLATFORM : undefined, ...ended };
		const { text } = await this.#control.ask('POST', `/api/v1/builds/${job.id}/end`, this.#control.credential, end);
		builder.next = (JSON.parse(text) as { job?: Job }).job ?? null;
		return job.id;
	}

	async #claim({ worker }: Builder): Promise<Job | null> {
		const { status, text } = await this.#control.ask('POST', '/api/v1/builds/claim', this.#control.credential, {
			worker,
			platform: PLATFORM,
		});
		return status === 200 ? (JSON.parse(text) as { job: Job }).job : null;
	}
}

interface Job {
	id: string;
	attempt: number;
}

interface Builder {
	worker: string;
	next: Job | null;
}

function appOf(n: number): string {
	return `app-${n}`;
}

function source(n: number, one: number): Buffer {
	return Buffer.from(`source ${one} of ${n}`);
}
