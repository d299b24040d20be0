import type { Clock, Timer } from '#clock/clock.ts';
import { nextPlaced } from '#placement/move.ts';
import { count, samePlaced, type Placed, type Placement } from '#placement/place.ts';
import { compareVersions, wantKey, type Run, type Want } from '#wire/region.ts';
import type { RegionHub } from '../ports.ts';
import { Candidates, type Candidate, type Joined } from './candidates.ts';
import { refusalToPlace } from './no-place.ts';
import { Refusals } from './refusals.ts';
import { Reserved, type Key } from './reserved.ts';
import { Table, type Ask } from './table.ts';

/** What finds no room, or does not become healthy where it was moved, is looked at again: another app may have made room. */
const LOOK_AGAIN_MS = 15_000;
export type LabelsOf = (release: number) => readonly string[];

/**
 * Which server of a region runs which instances, of all apps at once: they share the servers' budgets. Decided when a run
 * list is written, and again when a server joins, drains, is lost or comes back.
 */
export class Placing {
	readonly candidates: Candidates;
	readonly reserved: Reserved;
	readonly #hub: RegionHub;
	/** Key → the version and the servers with which it was found to be as it should be. */
	readonly #inOrder = new Map<string, string>();
	readonly #clock: Clock;
	readonly #changed: () => void;
	readonly #refusals = new Refusals();
	/** Key → why instances of it are not where they should be, in words. */
	readonly #stranded = new Map<string, string>();
	#again: Timer | null = null;

	constructor(of: { hub: RegionHub; clock: Clock; joined: () => readonly Joined[]; changed: () => void }) {
		this.#hub = of.hub;
		this.#clock = of.clock;
		this.#changed = of.changed;
		this.candidates = new Candidates(of);
		this.reserved = new Reserved(of.hub, of.clock);
	}

	/**
	 * Gives the instances of a new run list to servers: what runs already stays where it is, what begins is placed.
	 * `strict`: refused when there is no room. @throws Refusal
	 */
	assign(key: Key, before: Want | undefined, runs: readonly Run[], of: { labelsOf: LabelsOf; strict: boolean }): Run[] {
		const arePlaced = this.candidates.arePlaced(key.region);
		const version = (before?.version ?? 0) + 1;
		if (!arePlaced && (!of.strict || this.candidates.in(key.region).length === 0)) {
			this.reserved.note(key, runs, version);
			return [...runs];
		}
		const table = this.#table(key);
		const current = new Map(before?.run.map((run) => [run.release, this.#placedNow(key, run)]));
		const kept = new Set(runs.filter((run) => stays(before, run)));
		for (const run of kept) table.take(run, current.get(run.release)!);
		const written = runs.map((run) => {
			if (kept.has(run)) return { ...run, placed: { ...current.get(run.release)! } };
			const placed = this.#begin(key, table, run, current, of);
			table.take(run, placed);
			return { ...run, placed: { ...placed } };
		});
		const result = arePlaced ? written : [...runs];
		this.reserved.note(key, result, version);
		return result;
	}

	/** The run list with its instances where they should be by now, or on their way there; null: nothing is to be done. */
	rearranged(want: Want, labelsOf: LabelsOf): Run[] | null {
		const { region } = want;
		if (want.removed || want.run.length === 0 || !this.candidates.arePlaced(region)) return null;
		const state = `${want.epoch}.${want.version} ${this.candidates.generation(region)}`;
		if (this.#inOrder.get(wantKey(want)) === state) return null;
		const candidates = this.candidates.in(region);
		// Nobody is there to go to: who returns finds all as it was.
		if (!candidates.some((one) => one.connected && one.takes !== 'none')) return null;
		const table = this.#table(want);
		const current = want.run.map((run) => this.#placedNow(want, run));
		for (const [i, run] of want.run.entries()) table.take(run, current[i]!);
		let arrived = true;
		this.#stranded.delete(wantKey(want));
		const next = want.run.map((run, i) => {
			const now = current[i]!;
			table.giveBack(run, now);
			const missing = missingFrom(candidates, run);
			const refusing = { ...this.#refusing(want, run), ...missing };
			const hasFiles = keepers(candidates, want.app).some((server) => now[server]);
			const { target, refused } = targetOf(table, run, now, { labels: labelsOf(run.release), refusing, hasFiles });
			if (refused)
				this.#stranded.set(wantKey(want), refusalToPlace(want, run.instances, labelsOf(run.release), refused, candidates).message);
			const gone = new Set(Object.keys(now).filter((server) => server in missing || isGone(candidates, server)));
			// What stands by moves at once: it serves nobody, and is not worth its memory twice.
			const placed = run.as === 'warm' ? target : nextPlaced({ current: now, target, gone, healthy: this.#healthy(want, run) });
			table.take(run, placed);
			arrived &&= samePlaced(placed, target) && refused === null && !this.#refusals.any(`${wantKey(want)} v${run.release}`);
			return { ...run, placed: { ...placed } };
		});
		if (next.some((run, i) => !want.run[i]!.placed || !samePlaced(run.placed, want.run[i]!.placed))) {
			this.reserved.note(want, next, want.version + 1);
			return next;
		}
		if (arrived) this.#inOrder.set(wantKey(want), state);
		else this.#again ??= this.#clock.after(LOOK_AGAIN_MS, () => this.#lookAgain(), { idle: true });
		return null;
	}

	/** Why instances of this key stay on a server that is to be left; null: nothing keeps them. */
	stranded(key: Key): string | null {
		return this.#stranded.get(wantKey(key)) ?? null;
	}

	/** false: what was said of its instances says nothing of now. */
	isConnected(region: string, server: string): boolean {
		return this.candidates.in(region).some((one) => one.name === server && one.connected);
	}

	close(): void {
		this.#again?.cancel();
		this.candidates.close();
	}

	#lookAgain(): void {
		this.#again = null;
		this.#changed();
	}

	#table(key: Key): Table {
		return new Table(
			this.candidates.in(key.region),
			(server) => this.reserved.need(server, key.app),
			(server) => this.reserved.on(server, key),
		);
	}

	#begin(
		key: Key,
		table: Table,
		run: Run,
		current: ReadonlyMap<number, Placed>,
		{ labelsOf, strict }: { labelsOf: LabelsOf; strict: boolean },
	): Placed {
		const labels = labelsOf(run.release);
		// Nobody begins on a server that can't be reached, whatever it holds.
		const held = Object.entries(current.get(run.release) ?? {});
		const running = Object.fromEntries(held.filter(([server]) => this.isConnected(key.region, server)));
		const ask = { running, home: homeOf(current, run), labels, steady: false };
		const kept = keepers(table.candidates, key.app);
		const beside = kept.length > 0 ? table.place(run, { ...ask, only: kept }) : null;
		if (beside?.refused === null) return union(beside.placed, running);
		const answer = table.place(run, ask);
		if (!answer.refused) return union(answer.placed, running);
		if (strict) throw refusalToPlace(key, run.instances, labels, answer.refused, table.candidates);
		return union(table.placeAnyhow(run, { running, labels }), running);
	}

	/** Of a list from before the region had several servers: where they were seen. */
	#placedNow(key: Key, run: Run): Placed {
		if (run.placed) return run.placed;
		const servers = this.candidates.in(key.region);
		if (servers.length === 1) return { [servers[0]!.name]: run.instances };
		const seen: Record<string, number> = {};
		for (const { server, instance } of this.#hub.instancesByServer(key)) {
			if (instance.release === run.release && instance.state !== 'failed') seen[server] = (seen[server] ?? 0) + 1;
		}
		return seen;
	}

	/** Server → how many of the run it has had no room for, for so long that they had better start elsewhere. */
	#refusing(want: Want, run: Run): Placed {
		if (run.as === 'warm') return {};
		const full = new Set(this.candidates.in(want.region).flatMap(({ name, why }) => (why === 'disk' ? [name] : [])));
		const seen: Record<string, number> = {};
		for (const { server, instance } of this.#hub.instancesByServer(want)) {
			const { release, state, reason } = instance;
			// On a full disk its files can't be written. What an app itself fills (reason disk) is its own, and stays with it.
			const noRoom = reason === 'room' || (reason === 'platform' && full.has(server));
			if (release === run.release && state === 'failed' && noRoom) seen[server] = (seen[server] ?? 0) + 1;
		}
		return this.#refusals.of(`${wantKey(want)} v${run.release}`, seen, this.#clock.monotonic());
	}

	/** Of agents that know what is wanted now: what they said before may be on its way out. */
	#healthy(want: Want, run: Run): Placed {
		const healthy: Record<string, number> = {};
		for (const { server, instance, obeys } of this.#hub.instancesByServer(want)) {
			if (instance.release !== run.release || !instance.healthy || !STANDS[run.as].includes(instance.state)) continue;
			if ((obeys && compareVersions(obeys, want) < 0) || !this.isConnected(want.region, server)) continue;
			healthy[server] = (healthy[server] ?? 0) + 1;
		}
		return healthy;
	}
}

/** What stands by on a server that is to be left serves from there at once, until it is healthy elsewhere. */
function union(placed: Placed, held: Placed): Placed {
	const servers = new Set([...Object.keys(placed), ...Object.keys(held)]);
	return Object.fromEntries([...servers].map((server) => [server, Math.max(placed[server] ?? 0, held[server] ?? 0)]));
}

/** What counts as arrived, by what it is to be. */
const STANDS: Record<Run['as'], readonly string[]> = {
	serving: ['prepared', 'serving'],
	prepared: ['prepared', 'serving'],
	warm: ['warm'],
};

/** It runs already, and goes on; what comes back from rest is placed anew if its server is not there. */
function stays(before: Want | undefined, run: Run): boolean {
	const old = before?.run.find((one) => one.release === run.release);
	return old?.instances === run.instances && !(old.as === 'warm' && run.as !== 'warm');
}

/** What a run is bound by. */
interface Tied {
	labels: readonly string[];
	refusing: Placed;
	/** The app has files of its own on a server that it runs on. */
	hasFiles: boolean;
}

/** Servers that are there and have files of the app. */
function keepers(candidates: readonly Candidate[], app: string): string[] {
	return candidates.filter(({ connected, takes, keeps }) => connected && takes !== 'none' && keeps.includes(app)).map(({ name }) => name);
}

/** Moved off a server that drains or is lost, or to spread what stands too close. What finds no room stays where it is. */
function targetOf(table: Table, run: Run, now: Placed, { labels, refusing, hasFiles }: Tied): Target {
	const running = Object.fromEntries(Object.entries(now).map(([server, held]) => [server, held - (refusing[server] ?? 0)]));
	const ask: Ask = { running, home: {}, labels, steady: false, refusing: Object.keys(refusing) };
	const steady = table.place(run, { ...ask, steady: true });
	// What only stands by, or has files where it is, is not moved for a better spread.
	const tied = run.as === 'warm' || (hasFiles && count(refusing) === 0);
	if (!steady.refused)
		return { target: tied && allMayStay(table.candidates, run, now) ? now : settle(table, run, now, steady.placed, ask), refused: null };
	const { placed, refused } = table.place(run, ask);
	return { target: refused ? strand(placed, now, run.instances) : placed, refused };
}

/** What serves leaves a server that all apps together crowd. */
function settle(table: Table, run: Run, now: Placed, spread: Placed, ask: Ask): Placed {
	return run.as === 'serving' && samePlaced(spread, now) ? table.relieve(now, ask) : spread;
}

interface Target {
	target: Placed;
	/** Why not all of it is where it should be. */
	refused: Placement['refused'];
}

function isGone(candidates: readonly Candidate[], server: string): boolean {
	const one = candidates.find(({ name }) => name === server);
	return !one || one.why === 'lost' || one.why === 'removed';
}

/** A rollout waits for what is to be prepared: on a server that is away it is not waited for until that is taken for lost. */
function missingFrom(candidates: readonly Candidate[], { as, placed = {} }: Run): Placed {
	const missing = as === 'prepared' ? candidates.filter(({ name, missing: away }) => away && (placed[name] ?? 0) > 0) : [];
	return Object.fromEntries(missing.map(({ name }) => [name, placed[name]!]));
}

function allMayStay(candidates: readonly Candidate[], run: Run, now: Placed): boolean {
	const mayStay = (server: string) => candidates.some((one) => one.name === server && one.takes !== 'none');
	return count(now) === run.instances && Object.keys(now).every(mayStay);
}

/** Even where nobody is there: it may come back. */
function strand(placed: Placed, now: Placed, instances: number): Placed {
	const next: Record<string, number> = { ...placed };
	let missing = instances - count(placed);
	for (const server of Object.keys(now).toSorted()) {
		const more = Math.min(missing, Math.max(0, now[server]! - (next[server] ?? 0)));
		if (more === 0) continue;
		next[server] = (next[server] ?? 0) + more;
		missing -= more;
	}
	return next;
}

/** Where the app's other releases are. */
function homeOf(current: ReadonlyMap<number, Placed>, run: Run): Placed {
	const home: Record<string, number> = {};
	for (const [release, placed] of current) {
		if (release === run.release) continue;
		for (const [server, instances] of Object.entries(placed)) home[server] = Math.max(home[server] ?? 0, instances);
	}
	return home;
}
