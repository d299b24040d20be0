import type { Clock, Timer } from '#clock/clock.ts';
import { splitSeed, takesCandidate } from '#split/split.ts';
import { parseKeySource, type KeySource } from '#split/user-key.ts';
import {
	compareReports,
	compareVersions,
	type Instance,
	type Known,
	type Pointer,
	type ReleaseSpec,
	type ReportOrder,
	type Version,
	type Want,
} from '#wire/region.ts';
import { Trusted } from './trusted.ts';
import { Upstream } from './upstream.ts';
import { directWay, type Way } from './way.ts';

/**
 * What serves one (app, environment) in one region: the newest want, the one that is obeyed, and the instances.
 * Make before break: a newer want is obeyed once enough healthy instances of what it points to are known.
 */
export class Serving {
	readonly region: string;
	readonly app: string;
	readonly environment: string;
	/** The newest want seen; `obeyed` until then. */
	wanted: Want | null = null;
	obeyed: Want | null = null;
	readonly releases = new Map<number, Release>();
	readonly #reported = new Map<string, Reported>();
	#upstreams = new Map<string, Upstream>();
	#byRelease = new Map<number, Upstream[]>();
	readonly #waiting = new Set<() => void>();
	readonly #clock: Clock;
	readonly #ways: Ways;
	#candidateSeed = 0;
	#anySpare = false;

	constructor(key: { region: string; app: string; environment: string }, clock: Clock, ways: Ways = direct) {
		this.region = key.region;
		this.app = key.app;
		this.environment = key.environment;
		this.#clock = clock;
		this.#ways = ways;
	}

	/** false: refused, what is known is as new or newer. */
	want(want: Want, specs: readonly ReleaseSpec[]): boolean {
		this.learn(specs);
		if (this.wanted !== null && compareVersions(want, this.wanted) <= 0) return false;
		this.wanted = want;
		return true;
	}

	learn(specs: readonly ReleaseSpec[]): void {
		for (const spec of specs) this.releases.set(spec.release, releaseOf(spec));
	}

	/** Replaces what this server's agent said before; false: it is known, or was said before that. Every depot of the region repeats it. */
	report(
		server: string,
		instances: readonly Instance[],
		said: { obeys?: Version | undefined; order?: ReportOrder | undefined } = {},
	): boolean {
		if ((compareReports(said, this.#reported.get(server)) ?? 1) <= 0) return false;
		this.#reported.set(server, { instances: [...instances], obeys: said.obeys, order: said.order });
		const next = new Map<string, Upstream>();
		const frozen: Upstream[] = [];
		for (const [from, said] of this.#reported) {
			for (const instance of said.instances) {
				if (instance.address === null) continue;
				const id = `${from}/${instance.id}`;
				const known = this.#upstreams.get(id);
				const same = known?.address === instance.address && known.release === instance.release;
				const upstream = same ? known : this.#upstream(from, { ...instance, address: instance.address });
				if (upstream.state === 'warm' && instance.state !== 'warm') upstream.moves();
				if (this.#isFrozen(instance) && upstream.state !== 'warm') frozen.push(upstream);
				upstream.state = instance.state;
				upstream.healthy = instance.healthy;
				upstream.saidAt = said.obeys;
				next.set(id, upstream);
			}
		}
		for (const [id, upstream] of this.#upstreams) if (next.get(id) !== upstream) upstream.leave();
		this.#upstreams = next;
		this.#byRelease = Map.groupBy(next.values(), (upstream) => upstream.release);
		this.#markInUse();
		for (const upstream of next.values()) if (this.#runsOn(upstream)) upstream.ready();
		for (const upstream of frozen) upstream.standsStill();
		return true;
	}

	/** The server was removed: nobody goes there any more. false: it had nothing here. */
	forget(server: string): boolean {
		if (!this.#reported.has(server)) return false;
		this.report(server, []);
		return this.#reported.delete(server);
	}

	reports(): Iterable<[string, Reported]> {
		return this.#reported;
	}

	/** Obeys the newest want if its time has come; what became obeyed by it, else null. */
	obey(): Known | null {
		const { wanted } = this;
		if (wanted === null || wanted === this.obeyed || !this.#ready(wanted.pointer, wanted)) return null;
		this.adopt(wanted);
		return knownOf(wanted);
	}

	/** Obeys without a question: also what the disk says was obeyed. */
	adopt(want: Want): void {
		this.obeyed = want;
		const candidate = want.pointer.candidate?.release ?? 0;
		this.#candidateSeed = splitSeed({ app: this.app, environment: this.environment, candidate });
		const named = new Set([...(this.wanted?.run ?? []), ...want.run].map((run) => run.release));
		for (const release of [want.pointer.primary, want.pointer.candidate?.release, this.wanted?.pointer.primary])
			if (release) named.add(release);
		for (const release of this.releases.keys()) if (!named.has(release)) this.releases.delete(release);
		this.#markInUse();
	}

	/** While two releases share the traffic, and users have to be told apart. */
	get splitting(): boolean {
		return this.obeyed?.pointer.candidate != null;
	}

	/** The release that this user gets; null: nothing serves here. */
	releaseFor(userKey: string): number | null {
		const pointer = this.obeyed?.pointer;
		if (!pointer) return null;
		const { candidate } = pointer;
		return candidate !== null && takesCandidate(userKey, this.#candidateSeed, candidate.weightBp) ? candidate.release : pointer.primary;
	}

	/** The primary's settings: they say whom to trust and how users are known before a side is chosen. */
	get settings(): Release | null {
		const primary = this.obeyed?.pointer.primary;
		return primary == null ? null : (this.releases.get(primary) ?? null);
	}

	/**
	 * The less busy of two instances of the release that were not tried yet. Healthy ones; if all are said to be
	 * unhealthy while they take connections, the checks are more likely to be wrong than all of them: keep routing.
	 */
	pick(release: number, tried: readonly Upstream[]): Upstream | null {
		const warmRuns = this.releases.get(release)?.spec.warm === 'running';
		const routable = this.#byRelease.get(release)?.filter((upstream) => upstream.routable(warmRuns) && !tried.includes(upstream)) ?? [];
		if (routable.length === 1) return routable[0] as Upstream;
		const healthy = routable.filter((upstream) => upstream.healthy);
		const best = healthy.length > 0 ? healthy : routable;
		const staying = this.#anySpare ? best.filter((upstream) => !upstream.spare) : best;
		return lessBusy(staying.length > 0 ? staying : best);
	}

	/** The same, but on this server where there is one: what a probe measures is the app, not the way. */
	near(release: number): Upstream | null {
		const far = this.#byRelease.get(release)?.filter(({ way }) => way.far) ?? [];
		const near = far.length > 0 ? this.pick(release, far) : null;
		return near?.healthy ? near : this.pick(release, []);
	}

	/** A healthy instance of the release that the want keeps warm, when nothing else answers. Frozen ones are not woken from here. */
	lastResort(): Upstream | null {
		const warm = this.obeyed?.run.filter((run) => run.as === 'warm' && run.release !== this.obeyed?.pointer.primary) ?? [];
		for (const { release } of warm) {
			const upstream = this.pick(release, []);
			if (upstream?.healthy) return upstream;
		}
		return null;
	}

	/** The release of this deployment (`dpl_…`), if it is known here. */
	releaseOf(deployment: string): number | null {
		for (const [release, { spec }] of this.releases) if (spec.deployment === deployment) return release;
		return this.obeyed?.deployment === deployment ? this.obeyed.pointer.primary : null;
	}

	/** Runs `task` once, when instances or the pointer changed or `delayMs` have passed; false: too many wait already. */
	wait(task: () => void, delayMs: number): (() => void) | null {
		if (this.#waiting.size >= MAX_HELD_REQUESTS) return null;
		const timer: Timer = this.#clock.after(delayMs, () => once());
		const once = () => {
			if (this.#waiting.delete(once)) {
				timer.cancel();
				task();
			}
		};
		this.#waiting.add(once);
		return () => {
			this.#waiting.delete(once);
			timer.cancel();
		};
	}

	/** Those who wait look again. */
	wake(): void {
		// Who finds nobody waits again, in the same set: only those of now are woken.
		const woken = Array.from(this.#waiting);
		for (const task of woken) task();
	}

	sweep(): void {
		for (const upstream of this.#upstreams.values()) upstream.closeStale();
	}

	close(): void {
		for (const upstream of this.#upstreams.values()) upstream.leave();
	}

	#upstream(server: string, instance: Instance & { address: string }): Upstream {
		return new Upstream(server, instance, this.#ways(server, instance), this.#clock, () => this.wake());
	}

	#ready(pointer: Pointer, want: Want): boolean {
		if (pointer.primary === null) return true;
		const sides = [pointer.primary, ...(pointer.candidate ? [pointer.candidate.release] : [])];
		return sides.every((release) => this.#enough(release, want));
	}

	#enough(release: number, want: Want): boolean {
		const now = this.obeyed?.pointer;
		if (now?.primary === release || now?.candidate?.release === release) return true;
		const run = want.run.find((one) => one.release === release);
		// What is healthy on a server that this edge alone can't reach takes none of its requests, before or after.
		const instances = (run?.instances ?? 1) - this.#beyondReach(release, run?.since);
		const healthy = this.#healthy(release, run?.since);
		// Where what serves now has nobody left, one is better than none.
		const nobodyLeft = now?.primary != null && this.#healthy(now.primary) === 0;
		return healthy >= (nobodyLeft ? 1 : Math.max(1, Math.ceil(instances * ENOUGH_SHARE)));
	}

	#isFrozen({ state, release }: Instance): boolean {
		return state === 'warm' && this.releases.get(release)?.spec.warm === 'frozen';
	}

	/** Warm, and not at rest: the way back is the pointer alone. */
	#runsOn({ state, healthy, release }: Upstream): boolean {
		return state === 'warm' && healthy && this.releases.get(release)?.spec.warm === 'running';
	}

	/** `since`: what was said before that version does not count. */
	#healthy(release: number, since?: Version): number {
		const warmRuns = this.releases.get(release)?.spec.warm === 'running';
		return this.#byRelease.get(release)?.filter((one) => one.healthy && one.routable(warmRuns) && one.wasSaidSince(since)).length ?? 0;
	}

	#beyondReach(release: number, since?: Version): number {
		return this.#byRelease.get(release)?.filter((one) => one.healthy && !one.way.reachable && one.wasSaidSince(since)).length ?? 0;
	}

	#markInUse(): void {
		const pointer = this.obeyed?.pointer;
		const counted = new Map<string, number>();
		this.#anySpare = false;
		for (const upstream of this.#upstreams.values()) {
			// One that was spare may be leaving, until its agent has said that it knows better.
			const leaving = upstream.spare && this.obeyed !== null && !upstream.wasSaidSince(this.obeyed);
			upstream.spare = this.#isSpare(upstream, counted) || leaving;
			this.#anySpare ||= upstream.spare;
			const named = upstream.release === pointer?.primary || upstream.release === pointer?.candidate?.release;
			upstream.use(named && !upstream.spare);
		}
	}

	/** Of more than are placed on a server the first stay, in the order in which its agent names them: it keeps the same. */
	#isSpare({ server, release, state }: Upstream, counted: Map<string, number>): boolean {
		const placed = this.obeyed?.run.find((run) => run.release === release)?.placed;
		if (!placed || state === 'draining') return false;
		const before = counted.get(`${server} ${release}`) ?? 0;
		counted.set(`${server} ${release}`, before + 1);
		return before >= (placed[server] ?? 0);
	}
}

/** Of the instances that a want asks for, this share must be healthy before it is obeyed. */
const ENOUGH_SHARE = 0.8;
const MAX_HELD_REQUESTS = 1_000;

/** What the agent of one server last said, and the version it obeyed then. */
export interface Reported {
	instances: Instance[];
	obeys: Version | undefined;
	order: ReportOrder | undefined;
}

/** How an instance on a server is reached. */
export type Ways = (server: string, instance: { id: string; address: string }) => Way;
export const direct: Ways = (_server, { address }) => directWay(address);

/** A release's spec, and what requests need of it in a form that is quick to use. */
export interface Release {
	spec: ReleaseSpec;
	/** Value of `x-jibe-release`. */
	label: string;
	keySource: KeySource | null;
	trusted: Trusted;
}

function releaseOf(spec: ReleaseSpec): Release {
	return { spec, label: `v${spec.release}`, keySource: parseKeySource(spec.userKey), trusted: new Trusted(spec.trustedProxies) };
}

export function knownOf(want: Want): Known {
	return { region: want.region, app: want.app, environment: want.environment, epoch: want.epoch, version: want.version };
}

function lessBusy(upstreams: readonly Upstream[]): Upstream | null {
	if (upstreams.length === 0) return null;
	const a = upstreams[Math.floor(Math.random() * upstreams.length)] as Upstream;
	const b = upstreams[Math.floor(Math.random() * upstreams.length)] as Upstream;
	return b.inFlight < a.inFlight ? b : a;
}
