import type { Clock } from '#clock/clock.ts';
import type { ServerLink } from '#wire/accept.ts';
import type { ReleaseSpec, TaskOrder } from '#wire/region.ts';

/** Tasks that control gives to agents: passed on to the one that is named, whose server may read the release's files meanwhile. */
export class Tasks {
	readonly #running = new Map<string, { server: string; release: ReleaseSpec; until: number }>();
	readonly #clock: Clock;

	constructor(clock: Clock) {
		this.#clock = clock;
	}

	/** An agent that is away hears of it the next time that control says it. */
	ordered(order: TaskOrder, agents: readonly ServerLink[]): void {
		const { id, server, release, leaseMs } = order;
		const now = this.#clock.monotonic();
		for (const [other, { until }] of this.#running) if (until <= now) this.#running.delete(other);
		this.#running.set(id, { server, release, until: now + leaseMs });
		agents.find((link) => link.hello.server === server)?.send(order);
	}

	/** What this server may read besides what is placed on it. */
	releasesOf(server: string): ReleaseSpec[] {
		const now = this.#clock.monotonic();
		return [...this.#running.values()].flatMap((one) => (one.server === server && one.until > now ? [one.release] : []));
	}
}
