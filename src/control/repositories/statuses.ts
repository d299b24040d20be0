import type { Timer } from '#clock/clock.ts';
import type { CommitStatus } from '#state/deliveries.ts';
import type { BuildSource } from '#wire/builds.ts';
import type { Event } from '#wire/api.ts';
import type { House } from '../house.ts';
import { OutboundError } from '../outbound/outbound.ts';
import { apiOf, readCloneUrl } from './clone-url.ts';
import { DIALECTS } from './receive.ts';

/** What a forge shows beside a commit: wanted by what happens to a build, told until the forge has it. */

const AT_ONCE = 8;
const LEASE_MS = 60_000;
const LOOK_EACH_MS = 30_000;
const MAX_ATTEMPTS = 8;
const FIRST_RETRY_MS = 2_000;
const RETRY_FACTOR = 3;
const ANSWER_LIMIT_MS = 10_000;
const MAX_REMEMBERED = 1_000;

const TOLD_BY = new Set(['build.state', 'deployment.state']);
const CHANGED_BY = new Set(['repository.changed', 'repository.removed']);
/** Every state that forges are told of; the others come and go in between. */
const WORDS: Readonly<Record<string, readonly [CommitStatus['state'], string]>> = {
	Queued: ['pending', 'waits for a builder'],
	Building: ['pending', 'is built'],
	Testing: ['pending', 'is tested'],
	AwaitingApproval: ['pending', 'waits for somebody to approve it'],
	Deploying: ['pending', 'is prepared'],
	CanaryCheck: ['pending', 'is checked in its first region'],
	RollingOut: ['pending', 'rolls out'],
	RollingBack: ['pending', 'swings back'],
	Deployed: ['success', 'is live'],
	BuildFailed: ['failure', 'could not be built'],
	TestFailed: ['failure', 'failed its tests'],
	DeployFailed: ['failure', 'could not be deployed; what served before goes on'],
	RolledBack: ['failure', 'was rolled back'],
	Cancelled: ['error', 'was cancelled'],
	Superseded: ['error', 'gave way to a newer one'],
	TimedOut: ['error', 'took too long'],
};

type GitSource = Extract<BuildSource, { kind: 'git' }>;

export class Statuses {
	private readonly house: House;
	/** Of Jibe's page, as others reach it. */
	private readonly publicUrl: string;
	private readonly unsubscribe: () => void;
	private timer: Timer | null = null;
	private telling: Promise<void> | null = null;
	private again = false;
	private closed = false;
	/** Repositories whose forges show statuses; null: they have changed. */
	private shown: Promise<ReadonlySet<string>> | null = null;
	/** What builds were made of, asked for once each: most events of a deployment follow one another. */
	private readonly sources = new Map<string, Promise<GitSource | null>>();

	constructor(house: House, publicUrl: string) {
		this.house = house;
		this.publicUrl = publicUrl;
		this.unsubscribe = house.state.events.subscribe((event) => {
			if (CHANGED_BY.has(event.type)) this.shown = null;
			if (TOLD_BY.has(event.type) && event.deployment !== null) void this.heard(event);
		});
		this.hurry();
	}

	async close(): Promise<void> {
		this.closed = true;
		this.unsubscribe();
		this.timer?.cancel();
		await this.telling;
	}

	/** Something is to be told. */
	hurry(): void {
		this.again = true;
		if (this.closed || this.telling) return;
		this.timer?.cancel();
		this.telling = this.tell().finally(() => {
			this.telling = null;
			if (this.again) this.hurry();
		});
	}

	private async heard(event: Event): Promise<void> {
		try {
			const status = await this.statusOf(event);
			if (status === null) return;
			await this.house.state.commitStatuses.want(status);
			this.hurry();
		} catch (error) {
			this.house.log.warn('status.unsaid', { deployment: event.deployment, error });
		}
	}

	private async statusOf({ deployment: id, app, environment, at, data }: Event): Promise<CommitStatus | null> {
		const entered = data['state'];
		const words = typeof entered === 'string' ? WORDS[entered] : undefined;
		if (!words || id === null || app === null || environment === null) return null;
		// What comes from a laptop, and every rollback, is looked up for nobody.
		if (data['kind'] === 'rollback' || (await this.shows()).size === 0) return null;
		const source = await this.sourceOf(id);
		if (source === null || !(await this.shows()).has(source.repository)) return null;
		const { repository, commit } = source;
		const [state, what] = words;
		const where = environment === 'production' ? '' : ` (${environment})`;
		const context = `jibe/${app}${where}`;
		return { repository, commit, context, state, description: `${app} ${what} (${id})`, url: `${this.publicUrl}/`, at };
	}

	private shows(): Promise<ReadonlySet<string>> {
		if (this.shown) return this.shown;
		const read = this.house.state.repositories.list().then((rows) => {
			const telling = rows.filter(({ forge }) => forge !== 'push' && DIALECTS[forge].status !== null);
			return new Set(telling.map(({ name }) => name));
		});
		this.shown = read;
		read.catch(() => {
			if (this.shown === read) this.shown = null; // whoever waits for it says so
		});
		return read;
	}

	/** null: of nothing that a forge has. */
	private sourceOf(id: string): Promise<GitSource | null> {
		const known = this.sources.get(id);
		if (known) return known;
		const asked = this.house.state.builds.job(id).then((job) => (job?.kind === 'deploy' && job.source.kind === 'git' ? job.source : null));
		this.sources.set(id, asked);
		asked.catch(() => this.sources.delete(id)); // whoever waits for it says so
		const [oldest] = this.sources.keys();
		if (this.sources.size > MAX_REMEMBERED && oldest !== undefined) this.sources.delete(oldest);
		return asked;
	}

	private async tell(): Promise<void> {
		const { state, clock, log } = this.house;
		try {
			while (this.again && !this.closed) {
				this.again = false;
				const due = await state.commitStatuses.claim(AT_ONCE, LEASE_MS);
				await Promise.all(due.map((status) => this.tellOne(status)));
				this.again ||= due.length > 0;
			}
			const nextAt = await state.commitStatuses.nextAt();
			if (this.closed) return;
			const inMs = nextAt === null ? LOOK_EACH_MS : Math.min(LOOK_EACH_MS, Math.max(0, nextAt - clock.now()));
			this.timer = clock.after(inMs, () => this.hurry());
		} catch (error) {
			log.warn('statuses.not_told', { error });
			if (!this.closed) this.timer = clock.after(LOOK_EACH_MS, () => this.hurry());
		}
	}

	private async tellOne(status: CommitStatus & { attempts: number }): Promise<void> {
		const { state, clock, log } = this.house;
		const problem = await this.send(status);
		if (problem === null) return state.commitStatuses.told(status);
		const over = problem.final || status.attempts >= MAX_ATTEMPTS;
		log[over ? 'warn' : 'info']('status.not_told', { repository: status.repository, commit: status.commit, problem: problem.words });
		await state.commitStatuses.failed(
			status,
			problem.words,
			over ? null : clock.now() + FIRST_RETRY_MS * RETRY_FACTOR ** (status.attempts - 1),
		);
	}

	private async send(status: CommitStatus): Promise<{ words: string; final: boolean } | null> {
		const row = await this.house.state.repositories.get(status.repository);
		const make = row && row.forge !== 'push' ? DIALECTS[row.forge].status : null;
		const api = row ? apiOf(row.forge, row.url, row.api) : null;
		const { token } = row ? await this.house.repositorySecrets.open(row) : {};
		if (!row?.url || !make || api === null || token === undefined) return { words: 'there is no token to tell it with', final: true };
		try {
			const path = readCloneUrl(row.url).path;
			const answer = await this.house.outbound.ask({ ...make({ api, path, token, status }), limitMs: ANSWER_LIMIT_MS });
			if (answer.status >= 200 && answer.status < 300) return null;
			const final = answer.status < 500 && answer.status !== 429 && answer.status !== 408;
			return { words: `${new URL(api).host} answered ${answer.status}: ${answer.text.slice(0, 200)}`, final };
		} catch (error) {
			if (!(error instanceof OutboundError)) throw error;
			return { words: error.message, final: error.final };
		}
	}
}
