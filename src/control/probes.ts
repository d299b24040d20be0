import type { Clock } from '#clock/clock.ts';
import { randomId } from '#digest/digest.ts';
import type { ServerLink } from '#wire/accept.ts';
import type { Probed } from '#wire/region.ts';
import type { Place } from './reports.ts';

/** Probes that are under way: each ends with its answer, the time limit, or the link it was asked over. */

const PROBE_LIMIT_MS = 15_000;

export class ProbeFailed extends Error {
	readonly code = 'probe_failed';
}

export type ProbeAsk = Place & { releases: number[]; discard: number; count: number; whenReady?: boolean };

export class Probes {
	readonly #underWay = new Map<string, { link: ServerLink; settle: (answer: Probed | Error) => void }>();
	readonly #clock: Clock;

	constructor(clock: Clock) {
		this.#clock = clock;
	}

	/** @throws ProbeFailed */
	ask(of: ProbeAsk, link: ServerLink): Promise<Probed> {
		const id = randomId(12);
		const { region } = of;
		return new Promise((resolve, reject) => {
			const limit = this.#clock.after(PROBE_LIMIT_MS, () => settle(new ProbeFailed(`${region} did not answer the probe in time`)));
			const settle = (answer: Probed | Error) => {
				limit.cancel();
				this.#underWay.delete(id);
				if (answer instanceof Error) reject(answer);
				else if (answer.error !== null) reject(new ProbeFailed(answer.error));
				else resolve(answer);
			};
			this.#underWay.set(id, { link, settle });
			if (!link.send({ type: 'probe', id, ...of })) {
				settle(new ProbeFailed(`the link to ${region} broke`));
			}
		});
	}

	answered(message: Probed): void {
		this.#underWay.get(message.id)?.settle(message);
	}

	linkGone(link: ServerLink): void {
		for (const { link: asked, settle } of this.#underWay.values()) {
			if (asked === link) settle(new ProbeFailed('the link to the region broke'));
		}
	}

	close(): void {
		for (const { settle } of this.#underWay.values()) settle(new ProbeFailed('control is stopping'));
	}
}
