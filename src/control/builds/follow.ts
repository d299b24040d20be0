import type { Timer } from '#clock/clock.ts';
import { isFinal } from '#pipeline/states.ts';
import type { BuildRow } from '#state/builds.ts';
import type { Deployment, Event } from '#wire/api.ts';
import type { BuildNews } from '#wire/builds.ts';
import type { House } from '../house.ts';
import { LOG_START } from './log.ts';

/** What happens to a build, told to somebody who waits for its end. */

/** Hints may be lost: it looks by itself this often. */
const LOOK_MS = 1_000;

export class Follower {
	readonly #house: House;
	readonly #id: string;
	readonly #listener: (news: BuildNews) => void;
	#stops: (() => void)[] = [];
	#looking = false;
	#again = false;
	#stopped = false;
	#stages = 0;
	readonly #steps = new Map<string, string>();
	#cursor = LOG_START;
	/** Told as stages, and as events of the deployment. */
	readonly #states = new Set<unknown>();
	readonly #events = new Set<unknown>();

	constructor(house: House, id: string, listener: (news: BuildNews) => void) {
		this.#house = house;
		this.#id = id;
		this.#listener = listener;
	}

	begin(): void {
		const { builds, driver, state, clock } = this.#house;
		const timer: Timer = clock.every(LOOK_MS, () => this.#look());
		this.#stops = [
			() => timer.cancel(),
			builds.watch(this.#id, () => this.#look()),
			driver.watch((deployment, { type, data }) => {
				if (deployment.id !== this.#id) return;
				const { app, environment, id } = deployment;
				this.#deploymentEvent({ cursor: 0, at: clock.now(), type, app, environment, deployment: id, data }, deployment);
				if (isFinal(deployment.state)) this.#look();
			}),
			// Once another process drives it, only the database tells of it.
			state.events.subscribe((event) => {
				if (event.deployment !== this.#id || event.type !== 'deployment.state') return;
				this.#deploymentEvent({ ...event, cursor: 0 }, null);
			}),
		];
		this.#look();
	}

	stop(): void {
		this.#stopped = true;
		for (const stop of this.#stops.splice(0)) stop();
	}

	#look(): void {
		this.#again = true;
		if (!this.#looking) void this.#lookNow();
	}

	async #lookNow(): Promise<void> {
		this.#looking = true;
		try {
			while (this.#again && !this.#stopped) {
				this.#again = false;
				await this.#lookOnce();
			}
		} catch (error) {
			// The next look, a second from now, begins where this one stopped.
			this.#house.log.warn('build.unread', { build: this.#id, error });
		} finally {
			this.#looking = false;
		}
	}

	async #lookOnce(): Promise<void> {
		const { state } = this.#house;
		const build = await state.builds.build(this.#id);
		if (build) {
			this.#tellStages(build);
			this.#tellSteps(build, false);
			await this.#tellLines();
			this.#tellSteps(build, true);
			if (build.phase !== 'ended' && build.phase !== 'stopping' && !build.deployed) return;
		}
		if (build && !build.deployed) {
			const other = build.became === null ? null : await state.deployments.deployment(build.became);
			return this.#end(build, other, other !== null);
		}
		const deployment = await state.deployments.deployment(this.#id);
		if (!deployment) return this.#end(build, null, false);
		this.#tellDeployment(deployment);
		if (isFinal(deployment.state) && build?.phase !== 'gating') this.#end(build, deployment, false);
	}

	#tellStages({ stages, reason, detail, attempt }: BuildRow): void {
		for (const [index, { state, at }] of stages.entries()) {
			if (index < this.#stages) continue;
			const last = index === stages.length - 1;
			this.#states.add(state);
			this.#tell({ type: 'stage', state, at, reason: last ? reason : null, detail: last ? detail : null, attempt });
		}
		this.#stages = Math.max(this.#stages, stages.length);
	}

	/** That a step began before its lines, that it ended after them. */
	#tellSteps({ steps, attempt }: BuildRow, ended: boolean): void {
		for (const step of steps) {
			if ((step.state !== 'running') !== ended) continue;
			const text = JSON.stringify(step);
			if (this.#steps.get(step.name) === text) continue;
			this.#steps.set(step.name, text);
			this.#tell({ type: 'step', step, attempt });
		}
	}

	async #tellLines(): Promise<void> {
		for (;;) {
			const { lines, cursor } = await this.#house.buildLogs.read(this.#id, this.#cursor);
			if (lines.length > 0) this.#tell({ type: 'log', lines });
			if (cursor === this.#cursor || this.#stopped) return;
			this.#cursor = cursor;
		}
	}

	#deploymentEvent(event: Event, deployment: Deployment | null): void {
		if (event.type === 'deployment.state') {
			// Told by the driver, and once more by the database.
			const entered = event.data['state'];
			if (this.#events.has(entered)) return;
			this.#events.add(entered);
			if (deployment) this.#tellDeployment(deployment);
			this.#look();
		}
		this.#tell({ type: 'event', event });
	}

	#tellDeployment({ stages, state, reason, detail }: Deployment): void {
		for (const stage of stages) {
			if (this.#states.has(stage.state)) continue;
			this.#states.add(stage.state);
			const now = stage.state === state;
			this.#tell({ type: 'stage', ...stage, reason: now ? reason : null, detail: now ? detail : null, attempt: 0 });
		}
	}

	#end(build: BuildRow | null, deployment: Deployment | null, already: boolean): void {
		this.#tell({ type: 'end', end: { build, deployment, already } });
		this.stop();
	}

	#tell(news: BuildNews): void {
		if (this.#stopped) return;
		try {
			this.#listener(news);
		} catch (error) {
			this.#house.log.error('build.listener_failed', { build: this.#id, error });
			this.stop();
		}
	}
}
