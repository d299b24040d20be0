import type { Timer } from '#clock/clock.ts';
import type { Log } from '#log/log.ts';
import { isOpen, isTesting, type Effect, type Facts, type Rollout, type RolloutEvent } from '#rollout/rollout.ts';
import { nextLook, step } from '#rollout/step.ts';
import type { Deployment, Event } from '#wire/api.ts';
import type { AppConfig } from '#wire/config.ts';
import type { Gift, ReleaseSpec, Want } from '#wire/region.ts';
import { Refusal, type Advance, type Held } from '../ports.ts';
import { ANYBODY, asRead, isOthers, knows, TakenOver, takenFrom, type Seize } from './claim.ts';
import { Ledger } from './evidence.ts';
import { factsFor, type Scene } from './facts.ts';
import type { Placing } from './placing.ts';
import type { Presence } from './presence.ts';
import { askProbes } from './probes.ts';
import { rearrange } from './rearrange.ts';
import { RampTeller } from './ramp.ts';
import { changeOf, isLateNews, outcomes } from './record.ts';
import { fetchReleases, forgetReleases, namedIn } from './releases.ts';
import type { DriverSettings, Listener } from './settings.ts';
import { askedFor, LaneTasks } from './tasks.ts';
import { judge, nextJudgement } from './watch.ts';

/** How much of an environment's history is remembered: enough to find any release a rollback may go to. */
const HISTORY = 300;
/** A chain of steps longer than this is a fault of the reducer: it is logged and broken off. */
const MAX_STEPS = 200;
const RETRY_FIRST_MS = 100;
const RETRY_MOST_MS = 5_000;

/** A deployment as its driver holds it. */
export interface Walk {
	deployment: Deployment;
	fence: number;
	version: number;
	rollout: Rollout;
}

export interface KnownRelease {
	spec: ReleaseSpec;
	commit: string | null;
	config: AppConfig;
}

/**
 * All that happens to one app in one environment, one thing at a time: its deployments, what is wanted of each region,
 * and the walk of at most one rollout. What it holds is a copy of the database: when a write fails in any way it is read anew.
 */
export class Lane implements Scene {
	readonly app: string;
	readonly environment: string;
	readonly settings: DriverSettings;
	readonly presence: Presence;
	readonly placing: Placing;
	readonly hub: Scene['hub'];
	readonly log: Log;
	readonly ledger = new Ledger();
	readonly wants = new Map<string, Want>();
	readonly releases = new Map<number, KnownRelease>();
	/** Open ones and the last that was Deployed, oldest first. */
	walks: Walk[] = [];
	/** Newest first. */
	history: Deployment[] = [];
	readonly #told: Listener;
	readonly tasks = new LaneTasks();
	readonly #ramp = new RampTeller();
	readonly #blocked: () => boolean;
	#loaded = false;
	#tail: Promise<void> = Promise.resolve();
	#lookDue = false;
	#timer: Timer | null = null;
	#retryMs = RETRY_FIRST_MS;
	#closed = false;
	/** It is another process's: read for who asks about it, and left alone. */
	#ceded: boolean;
	/** From whom what is open is taken the next time it is read. Not after mere trouble: another may have taken over meanwhile. */
	#seize: Seize;
	#everLoaded = false;
	/** What it holds of deployments is older than the database's. */
	#outdated = false;

	constructor(of: {
		app: string;
		environment: string;
		settings: DriverSettings;
		presence: Presence;
		placing: Placing;
		told: Listener;
		blocked: () => boolean;
	}) {
		this.app = of.app;
		this.environment = of.environment;
		this.settings = of.settings;
		this.presence = of.presence;
		this.placing = of.placing;
		this.hub = of.settings.hub;
		this.log = of.settings.log.with({ app: of.app, environment: of.environment });
		this.#ceded = of.settings.others !== undefined;
		this.#seize = this.#ceded ? null : ANYBODY;
		this.#told = of.told;
		this.#blocked = of.blocked;
	}

	/** Runs `task` when everything before it is done, with the lane read from the database. */
	exclusive<T>(task: () => Promise<T>): Promise<T> {
		return this.#queue(() => this.#load().then(task));
	}

	#queue<T>(task: () => Promise<T>): Promise<T> {
		const result = this.#tail.then(async () => {
			if (this.#closed) throw new Error('the driver is closed');
			try {
				await this.settings.settled?.();
				return await task();
			} catch (error) {
				this.#failed(error);
				throw error;
			}
		});
		this.#tail = result.then(
			() => undefined,
			() => undefined,
		);
		return result;
	}

	/** The same for what a person asked: when somebody else had the lane, it is taken over and asked once more. */
	async request<T>(task: () => Promise<T>): Promise<T> {
		const attempt = () =>
			this.#queue(async () => {
				if (this.#loaded && (await isOthers(this))) this.#loaded = false;
				if (!this.#loaded) this.#seizeFrom(ANYBODY);
				await this.#load();
				return await task();
			});
		try {
			return await attempt();
		} catch (error) {
			const code = (error as { code?: unknown }).code;
			if (code !== 'fenced' && code !== 'stale') throw error;
			this.#loaded = false;
			return attempt();
		}
	}

	/** These are gone, and what they drove is driven from here on; it is left alone where somebody else was quicker. */
	async takeOver(from: readonly string[]): Promise<void> {
		await this.#queue(async () => {
			this.#loaded = false;
			this.#seizeFrom(from);
			await this.#load().then(() => this.look());
		});
	}

	/** Something was written that may not have been by this process: who else drives it now is left alone. */
	heard(event: Event): void {
		if (!this.#loaded || knows(this, event)) return;
		this.#queue(async () => {
			if (!this.#loaded || knows(this, event)) return;
			if (await isOthers(this)) return this.#cede();
			// Its own write, whose answer was lost.
			this.#loaded = false;
			this.look();
		}).catch(() => undefined); // logged, and tried again
	}

	/** Who drives it is asked again: this process was away. */
	async verify(): Promise<void> {
		await this.#queue(async () => {
			if (this.#loaded && (await isOthers(this))) this.#cede();
		});
	}

	#seizeFrom(from: NonNullable<Seize>): void {
		this.#ceded = false;
		this.#seize = from;
	}

	#cede(): void {
		this.log.info('lane.taken_over');
		this.#timer?.cancel();
		this.#lookDue = false;
		this.#loaded = false;
		this.#ceded = true;
		this.#seize = null;
		this.walks = [];
		this.tasks.close();
	}

	/** Something may have changed: looks at it as soon as possible. Calls that come meanwhile are answered by one look. */
	look(): void {
		if (this.#lookDue || this.#closed || this.#ceded) return;
		this.#lookDue = true;
		this.exclusive(() => this.#lookAll()).catch(() => undefined);
	}

	/** Tells the rollout of something and does what follows from it. */
	async tell(walk: Walk, event: RolloutEvent): Promise<boolean> {
		const now = this.settings.clock.now();
		// While another one walks nothing is done about regions that were away: the answer is asked for again later.
		const told: RolloutEvent = event.type === 'probed' && this.#isParked(walk) ? { type: 'resumed' } : event;
		const { rollout, effects } = step(walk.rollout, told, this.facts(walk.rollout), now);
		const lasting = effects.filter((effect) => effect.type !== 'probe');
		if (lasting.length > 0 || rollout.phase !== walk.rollout.phase || isLateNews(walk.rollout, rollout))
			await this.#commit(walk, rollout, lasting, now);
		else this.#note(walk, rollout);
		for (const effect of effects) if (effect.type === 'probe') askProbes(this, walk, effect);
		return effects.length > 0;
	}

	/** Which servers a release asks for. */
	labelsOf = (release: number): readonly string[] => this.releases.get(release)?.config.servers ?? [];

	facts(rollout: Rollout): Facts {
		const keep = this.walks.filter((walk) => isOpen(walk.rollout) && walk.rollout !== rollout).map((walk) => walk.rollout.release);
		return { ...factsFor(this, rollout, keep), ...askedFor(this, rollout) };
	}

	/** The one that may move pointers now. */
	walking(): Walk | null {
		return this.walks.find((walk) => walk.rollout.phase === 'preparing' || walk.rollout.phase === 'walking') ?? null;
	}

	swinging(): Walk[] {
		return this.walks.filter((walk) => walk.rollout.phase === 'swinging');
	}

	/** A rollback goes before what was asked for after it, and before what it was started to undo. */
	waiting(which: (walk: Walk) => boolean = () => true): Walk | null {
		const waiting = this.walks.filter((walk) => walk.rollout.phase === 'waiting' && which(walk));
		return waiting.find((walk) => walk.rollout.kind === 'rollback') ?? waiting[0] ?? null;
	}

	/** The last that reached Deployed, while nothing else took its place. */
	live(): Walk | null {
		const live = this.walks.filter((walk) => walk.rollout.phase === 'live');
		if (live.length <= 1) return live[0] ?? null;
		const last = this.lastDeployed()?.id;
		return live.find((walk) => walk.deployment.id === last) ?? live.at(-1) ?? null;
	}

	/** Those that reached Deployed, the last to do so first: one that was created earlier may have waited for longer. */
	deployed(): Deployment[] {
		return this.history.filter((one) => one.state === 'Deployed').toSorted((a, b) => (b.endedAt ?? 0) - (a.endedAt ?? 0));
	}

	lastDeployed(): Deployment | null {
		let last: Deployment | null = null;
		for (const one of this.history) if (one.state === 'Deployed' && (last === null || (one.endedAt ?? 0) > (last.endedAt ?? 0))) last = one;
		return last;
	}

	/** What the pointers name: the canary region's first; null when nothing serves anywhere. */
	serving(): number | null {
		const order = this.presence.names();
		const pointed = order.map((region) => this.wants.get(region)?.pointer.primary ?? null);
		const last = this.lastDeployed()?.release ?? null;
		return pointed.includes(last) ? last : (pointed.find((release) => release !== null) ?? null);
	}

	/** Takes up what a transaction returned, and tells the regions of it. */
	async adopt(held: Held & { wants: Want[] }, known: KnownRelease, gift: Gift | null): Promise<Walk> {
		const walk: Walk = { deployment: held.deployment, fence: held.fence, version: held.version, rollout: held.rollout as Rollout };
		this.releases.set(held.deployment.release, known);
		this.walks = this.walks.filter((one) => isOpen(one.rollout) || one.rollout.phase === 'live');
		this.walks.push(walk);
		// Not before it is one of the walks: while 64 others are still watched, it would be the one to go.
		forgetReleases(this);
		this.#remember(held.deployment);
		this.send(held.wants, gift);
		this.#told(held.deployment, { type: 'deployment.state', data: { state: held.deployment.state, reason: null } });
		return walk;
	}

	/** Changes the record of a deployment without a step of its rollout. */
	async record(walk: Walk, change: Omit<Advance, 'deployment' | 'fence' | 'version' | 'at'>): Promise<void> {
		const now = this.settings.clock.now();
		const { id } = walk.deployment;
		const done = await this.settings.store.advance({ deployment: id, fence: walk.fence, version: walk.version, at: now, ...change });
		walk.version = done.version;
		walk.deployment = done.deployment;
		this.#remember(done.deployment);
		// It may go back to what no list has named for a while.
		await fetchReleases(this, done.wants.flatMap(namedIn));
		this.send(done.wants, null);
		if (change.to) this.#told(done.deployment, { type: 'deployment.state', data: { state: change.to, reason: change.reason ?? null } });
		for (const event of change.events ?? []) this.#told(done.deployment, event);
	}

	send(wants: Want[], gift: Gift | null): void {
		for (const want of wants) this.wants.set(want.region, want);
		if (wants.length === 0) return;
		this.hub.send(
			wants,
			[...new Set(wants.flatMap(namedIn))].flatMap((release) => this.releases.get(release)?.spec ?? []),
			gift,
		);
	}

	/** The release as the database has it; null when there is none of that number. */
	async release(number: number): Promise<KnownRelease | null> {
		if (!this.releases.has(number)) await fetchReleases(this, [number]);
		return this.releases.get(number) ?? null;
	}

	/** A waiting one was superseded in another's transaction. */
	async forget(ids: readonly string[]): Promise<void> {
		this.walks = this.walks.filter((walk) => !ids.includes(walk.deployment.id));
		for (const id of ids) {
			const ended = await this.settings.store.deployment(id);
			if (!ended) continue;
			this.#remember(ended);
			this.#told(ended, { type: 'deployment.state', data: { state: ended.state, reason: ended.reason } });
		}
	}

	/** Reads everything anew at the next use; where there are others, only what is its own. */
	reload(): void {
		if (!this.#ceded) this.#seize = this.settings.others ? null : ANYBODY;
		this.#loaded = false;
	}

	async close(): Promise<void> {
		this.#timer?.cancel();
		await this.#tail;
		this.#closed = true;
		this.tasks.close();
		this.#timer?.cancel();
	}

	/** Looks at each of its deployments until there is nothing left to do, and sets the timer for what time alone will change. */
	async #lookAll(): Promise<void> {
		this.#lookDue = false;
		this.#timer?.cancel();
		let lookedAt = this.settings.clock.now();
		for (let steps = 0; !this.#blocked(); steps++) {
			lookedAt = this.settings.clock.now();
			if (steps === MAX_STEPS) {
				this.log.error('lane.endless', { deployments: this.walks.map((walk) => walk.deployment.id) });
				break;
			}
			if (!(await this.#stepOne())) break;
		}
		this.#retryMs = RETRY_FIRST_MS;
		this.#ramp.look(this, this.#told);
		this.tasks.look(this);
		this.#setTimer(lookedAt);
	}

	async #stepOne(): Promise<boolean> {
		for (const walk of this.walks) {
			if (this.#isParked(walk)) continue;
			if (await this.tell(walk, { type: 'looked' })) return true;
		}
		this.#tidyWalks();
		const waiting = this.waiting((walk) => !isTesting(walk.rollout));
		if (waiting && !this.walking() && this.swinging().length === 0) return this.tell(waiting, { type: 'turn' }).then(() => true);
		return (await rearrange(this)) || judge(this);
	}

	/** Once another one walks it decides about every region: those that were away wait for it. */
	#isParked(walk: Walk): boolean {
		return walk.rollout.phase === 'live' && (walk !== this.live() || this.walking() !== null || this.swinging().length > 0);
	}

	/** Ended ones go, unless a region has still to hear of it. */
	#tidyWalks(): void {
		this.walks = this.walks.filter(
			({ rollout }) => rollout.phase !== 'ended' || rollout.regions.some((region) => region.stage === 'pending'),
		);
	}

	async #commit(walk: Walk, rollout: Rollout, effects: Effect[], now: number): Promise<void> {
		const before = walk.rollout;
		// Who waits hears at once of edges that obey; what is decided now is told when it is written.
		this.#tellRegions(walk, before, rollout, (state) => state === 'live');
		await this.record(walk, changeOf(this, rollout, effects, now));
		walk.rollout = rollout;
		this.#tellRegions(walk, before, rollout, (state) => state !== 'live');
	}

	/** Nothing to write: what changed can be seen again from the facts. */
	#note(walk: Walk, rollout: Rollout): void {
		const before = walk.rollout;
		walk.rollout = rollout;
		walk.deployment = { ...walk.deployment, regions: outcomes(rollout) };
		this.#tellRegions(walk, before, rollout, () => true);
	}

	#tellRegions(walk: Walk, before: Rollout, after: Rollout, which: (state: string) => boolean): void {
		for (const [index, region] of outcomes(after).entries()) {
			if (before.regions[index]?.stage === after.regions[index]!.stage || !which(region.state)) continue;
			this.#told(walk.deployment, { type: 'deployment.region', data: { ...region } });
		}
	}

	#remember(deployment: Deployment): void {
		const at = this.history.findIndex((one) => one.id === deployment.id);
		if (at === -1) this.history.unshift(deployment);
		else this.history[at] = deployment;
		if (this.history.length > HISTORY) this.history.length = HISTORY;
	}

	/** What came to its time while the last look went on was not seen by it. */
	#setTimer(lookedAt: number): void {
		const now = this.settings.clock.now();
		const times = this.walks.map((walk) => nextLook(walk.rollout, lookedAt));
		times.push(nextJudgement(this, lookedAt));
		const loss = this.walks.some((walk) => isOpen(walk.rollout)) ? this.presence.nextLossMs() : null;
		if (loss !== null) times.push(now + loss);
		const ahead = times.filter((time) => time !== null);
		if (ahead.length === 0) return;
		this.#timer = this.settings.clock.after(Math.max(1, Math.min(...ahead) - now), () => this.look(), { idle: true });
	}

	async #load(): Promise<void> {
		if (this.#loaded) return;
		// What is another process's is read, for who asks about it, and left alone.
		const reading = this.#ceded && !this.#seize;
		const { store, owner } = this.settings;
		const { app, environment } = this;
		const [wants, open, history] = await Promise.all([
			store.wants({ app, environment }),
			store.open(),
			store.history({ app, environment, limit: HISTORY }),
		]);
		const known = new Map(this.history.map((one) => [one.id, one.state]));
		this.history = history;
		this.wants.clear();
		for (const want of wants) if (want.environment === environment) this.wants.set(want.region, want);
		const held = open.filter(({ deployment }) => deployment.app === app && deployment.environment === environment);
		const allowed = takenFrom(this.#seize, owner);
		if (!reading && allowed && held.some((one) => !allowed.includes(one.owner)))
			throw new TakenOver(`${app} in ${environment} is another process's now`);
		this.walks = reading ? held.map(asRead) : await this.#takeAll(held, allowed);
		this.#seize = null;
		this.#everLoaded = true;
		this.#outdated = false;
		// No region is told of one that migrates first.
		await fetchReleases(this, [...wants.flatMap(namedIn), ...this.walks.map(({ rollout }) => rollout.release)]);
		if (reading) return;
		this.#loaded = true;
		// Whoever wrote last may have gone before it told the regions.
		this.send([...this.wants.values()], null);
		// A transaction whose answer was lost: who listens has not heard of it.
		for (const one of history.toReversed()) {
			if (known.size > 0 && known.get(one.id) !== one.state)
				this.#told(one, { type: 'deployment.state', data: { state: one.state, reason: one.reason } });
		}
		for (const walk of this.walks) await this.tell(walk, { type: 'resumed' });
		this.#lookDue = false;
		this.look();
	}

	/** What is open, and what serves: regions that were away catch up with that, and its fence guards what is kept warm. */
	async #takeAll(open: readonly Held[], allowed: readonly string[] | null): Promise<Walk[]> {
		const ids = new Set(open.map((one) => one.deployment.id));
		const last = this.lastDeployed();
		const walks: Walk[] = [];
		const before = this.walks.find((walk) => walk.deployment.id === last?.id);
		const serves = last !== null && this.serving() === last.release;
		if (last && !ids.has(last.id)) {
			// Taken anew only when it must be: the fence of what one has says whether somebody else came since.
			if (before && !this.#seize && !this.#outdated) walks.push(...(serves ? [before] : []));
			// It may serve again once what walks now has swung back: who takes the lane takes it too.
			else if (serves || this.#seize) ids.add(last.id);
		}
		const { store, owner } = this.settings;
		for (const id of ids) {
			const { deployment, fence, version, rollout } = await store.take(id, owner, allowed ?? undefined);
			if (id !== last?.id || serves || open.some((one) => one.deployment.id === id))
				walks.push({ deployment, fence, version, rollout: rollout as Rollout });
		}
		return walks.toSorted((a, b) => a.deployment.createdAt - b.deployment.createdAt);
	}

	/** A refusal changes nothing. Anything else may or may not have been written: the database is asked again. */
	#failed(error: unknown): void {
		const code = (error as { code?: unknown }).code;
		if (error instanceof Refusal) return;
		this.#loaded = false;
		this.#lookDue = false;
		// A person's word to take it counts for the attempt it was given for.
		if (this.#seize === ANYBODY && (this.#everLoaded || this.settings.others)) this.#seize = null;
		if (this.#closed) return;
		// It is somebody else's now. Taking it back unasked would have the two take it from each other for ever.
		if (code === 'fenced') return this.#cede();
		// There is nothing to do about what is another's.
		if (this.#ceded) return;
		// With the right fence and the wrong version: its own write, whose answer was lost.
		if (code === 'stale') this.#outdated = true;
		this.log.warn('lane.retry', { inMs: this.#retryMs, error });
		this.#timer?.cancel();
		this.#timer = this.settings.clock.after(this.#retryMs, () => this.look(), { idle: true });
		this.#retryMs = Math.min(RETRY_MOST_MS, this.#retryMs * 2);
	}
}
