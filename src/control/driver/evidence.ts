import type { Counts, Evidence, WatchedInstance } from '#canary/watch.ts';
import { UNHEALTHY_FOR_MS } from '#canary/watch.ts';
import type { Stats } from '#wire/region.ts';
import type { Scene } from './facts.ts';

/** How much of the past of the current release the new one is compared with. */
const BASELINE_MS = 5 * 60_000;
/** Counts older than this are forgotten. */
const KEEP_SECONDS = 20 * 60;

/** What edges counted and agents said of one app and environment: the evidence for or against a release. */
export class Ledger {
	/** Release → second → [requests, errors]. */
	readonly #seconds = new Map<number, Map<number, [number, number]>>();
	/** Instance → since when it has been unhealthy or failed. */
	readonly #badSince = new Map<string, number>();

	count(second: number, rows: readonly Stats['rows'][number][]): void {
		for (const row of rows) {
			const seconds = this.#seconds.get(row.release) ?? new Map<number, [number, number]>();
			this.#seconds.set(row.release, seconds);
			const [requests, errors] = seconds.get(second) ?? [0, 0];
			seconds.set(second, [requests + row.requests, errors + row.errors]);
		}
		for (const [release, seconds] of this.#seconds) this.#forget(release, seconds, second - KEEP_SECONDS);
	}

	evidence(
		scene: Scene,
		of: { release: number; current: number | null; regions: readonly string[]; since: number; watchMs: number },
		now: number,
	): Evidence {
		return {
			next: this.counted(of.release, of.since),
			current: of.current === null ? { requests: 0, errors: 0 } : this.counted(of.current, of.since - BASELINE_MS),
			instances: this.#instances(scene, of.release, of.regions, now),
			watchMs: of.watchMs,
		};
	}

	/** When an instance that is unwell now will have been so for long enough to count; null: never. */
	nextLook(now: number): number | null {
		const ahead = [...this.#badSince.values()].map((since) => since + UNHEALTHY_FOR_MS).filter((at) => at > now);
		return ahead.length === 0 ? null : Math.min(...ahead);
	}

	/** Requests and errors of a release since then. */
	counted(release: number, since: number): Counts {
		const from = Math.floor(since / 1000);
		const sum = { requests: 0, errors: 0 };
		for (const [second, [requests, errors]] of this.#seconds.get(release) ?? []) {
			if (second < from) continue;
			sum.requests += requests;
			sum.errors += errors;
		}
		return sum;
	}

	#instances(scene: Scene, release: number, regions: readonly string[], now: number): WatchedInstance[] {
		const present = new Set<string>();
		const watched = regions.flatMap((region) =>
			scene.hub
				.instances({ region, app: scene.app, environment: scene.environment })
				.filter((instance) => instance.release === release && instance.state !== 'draining')
				.map((instance) => {
					const id = `${region}/${instance.id}`;
					const failed = instance.state === 'failed';
					const bad = failed || (!instance.healthy && instance.state === 'serving');
					present.add(id);
					if (!bad) this.#badSince.delete(id);
					else if (!this.#badSince.has(id)) this.#badSince.set(id, now);
					return { healthy: !bad, failed, restarts: instance.restarts, badSince: this.#badSince.get(id) ?? null };
				}),
		);
		for (const id of this.#badSince.keys()) if (!present.has(id)) this.#badSince.delete(id);
		return watched;
	}

	#forget(release: number, seconds: Map<number, [number, number]>, before: number): void {
		for (const second of seconds.keys()) {
			if (second >= before) break;
			seconds.delete(second);
		}
		if (seconds.size === 0) this.#seconds.delete(release);
	}
}
