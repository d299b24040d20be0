import type { Clock } from '#clock/clock.ts';
import { randomId } from '#digest/digest.ts';
import type { ServerLink } from '#wire/accept.ts';
import { compareVersions, wantKey, type Held, type ReleaseSpec, type Want } from '#wire/region.ts';

/** What the regions hold of an app, asked of their depots: more than the database knows, after that was restored. */

/** Depots answer from memory; one that is older does not know the question. */
const ANSWER_LIMIT_MS = 2_000;

export class HeldAsks {
	readonly #underWay = new Map<string, (answer: Held) => void>();
	readonly #clock: Clock;

	constructor(clock: Clock) {
		this.#clock = clock;
	}

	/** The newest want of each region and environment that any of these depots holds, with the releases that they name. */
	async ask(app: string, links: Iterable<ServerLink>): Promise<{ wants: Want[]; releases: ReleaseSpec[] }> {
		const answers = await Promise.all([...links].map((link) => this.#askOne(app, link)));
		const wants = new Map<string, Want>();
		const releases = new Map<number, ReleaseSpec>();
		for (const { wants: theirs, releases: specs } of answers.filter((answer) => answer !== null)) {
			for (const want of theirs.filter((one) => one.app === app)) {
				const known = wants.get(wantKey(want));
				if (!known || compareVersions(want, known) > 0) wants.set(wantKey(want), want);
			}
			for (const spec of specs.filter((one) => one.app === app)) releases.set(spec.release, spec);
		}
		return { wants: [...wants.values()], releases: [...releases.values()] };
	}

	answered(message: Held, link: ServerLink): void {
		const wants = message.wants.filter((want) => link.hello.regions.includes(want.region));
		this.#underWay.get(message.id)?.({ ...message, wants });
	}

	#askOne(app: string, link: ServerLink): Promise<Held | null> {
		const id = randomId(12);
		return new Promise((resolve) => {
			const settle = (answer: Held | null) => {
				limit.cancel();
				this.#underWay.delete(id);
				resolve(answer);
			};
			const limit = this.#clock.after(ANSWER_LIMIT_MS, () => settle(null));
			this.#underWay.set(id, settle);
			if (!link.send({ type: 'heldWanted', id, app })) settle(null);
		});
	}
}
