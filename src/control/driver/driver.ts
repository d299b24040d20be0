import { pause } from '#clock/clock.ts';
import type { Event } from '#wire/api.ts';
import type { Known } from '#wire/region.ts';
import { Refusal, type DeployInput, type Driver, type HubEvent, type RollbackInput, type VerdictAsk } from '../ports.ts';
import { cancel, checked, promote, remove, tested } from './cancel.ts';
import { deploy } from './deploy.ts';
import { Lane } from './lane.ts';
import { Placing } from './placing.ts';
import { Presence } from './presence.ts';
import { rollback, rollbackTarget } from './rollback.ts';
import type { DriverSettings, Listener } from './settings.ts';
import { verdict } from './verdict.ts';
import { noticesOf } from './tasks.ts';
import { discardWarm } from './watch.ts';

const RESUME_RETRY_MS = 500;
/** Tell that an app's environment was changed. */
const LANE_EVENTS = new Set(['deployment.state', 'pointer.written', 'runs.written']);

/** Moves deployments through the regions: one lane for each app and environment, each woken by what the hub tells and by the clock. */
export function createDriver(settings: DriverSettings): Driver {
	return new RolloutDriver(settings);
}

class RolloutDriver implements Driver {
	readonly #settings: DriverSettings;
	readonly #presence: Presence;
	readonly #placing: Placing;
	readonly #lanes = new Map<string, Lane>();
	readonly #listeners = new Set<Listener>();
	/** App → why its pointers may not be written. */
	readonly #readOnly = new Map<string, string>();
	readonly #unsubscribe: () => void;
	#closed = false;

	constructor(settings: DriverSettings) {
		this.#settings = settings;
		this.#presence = new Presence(settings.hub, settings.clock);
		const { hub, clock, joined } = settings;
		this.#placing = new Placing({ hub, clock, joined: () => joined?.servers() ?? [], changed: () => this.#lookAll() });
		const stops = [hub.subscribe((event) => this.#heard(event)), joined?.subscribe(() => this.#placing.candidates.heard(null))];
		this.#unsubscribe = () => stops.forEach((stop) => stop?.());
	}

	deploy(input: DeployInput) {
		const lane = this.#lane(input.app, input.environment);
		return lane.request(async () => {
			this.#refuseReadOnly(input.app);
			return deploy(lane, input);
		});
	}

	rollback(input: RollbackInput) {
		const lane = this.#lane(input.app, input.environment);
		return lane.request(async () => {
			this.#refuseReadOnly(input.app);
			return rollback(lane, input);
		});
	}

	cancel(id: string, by: string) {
		return this.#ofDeployment(id, (lane) => cancel(lane, id, by));
	}

	tested(id: string, verdict: { passed: boolean; summary: string }) {
		return this.#ofDeployment(id, (lane) => tested(lane, id, verdict));
	}

	checked(id: string, verdict: { passed: boolean; summary: string }) {
		return this.#ofDeployment(id, (lane) => checked(lane, id, verdict));
	}

	promote(id: string, by: string) {
		return this.#ofDeployment(id, (lane) => promote(lane, id, by));
	}

	verdict(ask: VerdictAsk) {
		const lane = this.#lane(ask.app, ask.environment);
		return lane.request(async () => {
			this.#refuseReadOnly(ask.app);
			return verdict(lane, ask);
		});
	}

	async #ofDeployment<T>(id: string, act: (lane: Lane) => Promise<T>): Promise<T> {
		const deployment = await this.#settings.store.deployment(id);
		if (!deployment) throw new Refusal('unknown_deployment', 404, `there is no deployment ${id}`, '`jibe history` lists them');
		const lane = this.#lane(deployment.app, deployment.environment);
		return lane.request(async () => {
			this.#refuseReadOnly(deployment.app);
			return act(lane);
		});
	}

	async removeApp(app: string, by: string) {
		this.#refuseReadOnly(app);
		const wants = await this.#settings.store.wants({ app });
		for (const environment of new Set(wants.map((want) => want.environment))) await this.#remove({ app, environment, by });
	}

	removeEnvironment(of: { app: string; environment: string; by: string }) {
		this.#refuseReadOnly(of.app);
		return this.#remove(of);
	}

	async #remove({ app, environment, by }: { app: string; environment: string; by: string }) {
		const lane = this.#lane(app, environment);
		await lane.request(() => remove(lane));
		this.#settings.log.info('app.removed', { app, environment, by });
	}

	async discard({ app, environment, releases }: { app: string; environment: string; releases: readonly number[] }) {
		if (releases.length === 0) return;
		this.#refuseReadOnly(app);
		const lane = this.#lane(app, environment);
		await lane.request(() => discardWarm(lane, releases));
	}

	/** What others drive that live is theirs. A lane that can't be read now tries again by itself. */
	async resume() {
		const others = this.#settings.others?.() ?? new Set();
		const rows = await this.#driven();
		await Promise.allSettled(
			rows.map(async ({ app, environment, owners }) => {
				const lane = this.#lane(app, environment);
				if (!owners.some((owner) => others.has(owner))) await lane.takeOver(owners);
			}),
		);
	}

	/** @throws when one of its lanes could not be read */
	async takeOver(gone: string) {
		const rows = await this.#settings.store.lanes({});
		const theirs = rows.filter(({ owners }) => owners.includes(gone));
		await Promise.all(
			theirs.map(({ app, environment }) =>
				this.#lane(app, environment)
					.takeOver([gone])
					.catch((error: unknown) => {
						// Another one was quicker.
						if ((error as { code?: unknown }).code !== 'fenced') throw error;
					}),
			),
		);
	}

	async verify() {
		await Promise.all([...this.#lanes.values()].map((lane) => lane.verify()));
	}

	heard(event: Event) {
		if (event.app === null || event.environment === null || !LANE_EVENTS.has(event.type)) return;
		// Also where it was unknown: what is counted of it from now on is evidence, should this process come to drive it.
		this.#lane(event.app, event.environment).heard(event);
	}

	/** Everything that is wanted or open. The database may still be starting: asked until it answers. */
	async #driven(): Promise<{ app: string; environment: string; owners: string[] }[]> {
		const { store, clock, log } = this.#settings;
		while (!this.#closed) {
			try {
				return await store.lanes({});
			} catch (error) {
				log.warn('driver.resume_retry', { inMs: RESUME_RETRY_MS, error });
				await pause(RESUME_RETRY_MS, clock);
			}
		}
		return [];
	}

	async recovered(app: string) {
		this.#readOnly.delete(app);
		for (const lane of this.#lanes.values()) if (lane.app === app) lane.reload();
		const lanes = [...this.#lanes.values()].filter((lane) => lane.app === app);
		await Promise.all(lanes.map((lane) => lane.exclusive(async () => lane.look())));
	}

	readOnly(app: string) {
		return this.#readOnly.get(app) ?? null;
	}

	setReadOnly(app: string, reason: string) {
		this.#readOnly.set(app, reason);
	}

	ahead({ region, app, environment, epoch, version }: Known) {
		if (this.#readOnly.has(app)) return;
		const reason = `${region} has seen version ${epoch}.${version} of ${app} (${environment}), which the database does not know`;
		this.#readOnly.set(app, reason);
		this.#settings.log.error('app.read_only', { app, reason, hint: `jibe control recover ${app}` });
		this.#settings.onReadOnly?.(app, reason);
	}

	rollbackTarget(app: string, environment: string) {
		const lane = this.#lane(app, environment);
		return lane.exclusive(() => rollbackTarget(lane));
	}

	notices(app: string, environment: string) {
		const lane = this.#lane(app, environment);
		return lane.exclusive(async () => noticesOf(lane));
	}

	stranded(key: { region: string; app: string; environment: string }) {
		return this.#placing.stranded(key);
	}

	watch(listener: Listener) {
		this.#listeners.add(listener);
		return () => void this.#listeners.delete(listener);
	}

	async close() {
		this.#closed = true;
		this.#unsubscribe();
		this.#placing.close();
		await Promise.all([...this.#lanes.values()].map((lane) => lane.close()));
	}

	#lane(app: string, environment: string): Lane {
		const key = `${app}/${environment}`;
		const known = this.#lanes.get(key);
		if (known) return known;
		const lane = new Lane({
			app,
			environment,
			settings: this.#settings,
			presence: this.#presence,
			placing: this.#placing,
			told: (deployment, event) => {
				for (const listener of this.#listeners) listener(deployment, event);
			},
			blocked: () => this.#readOnly.has(app),
		});
		this.#lanes.set(key, lane);
		return lane;
	}

	#heard(event: HubEvent): void {
		switch (event.type) {
			case 'instances':
				return this.#lanes.get(`${event.app}/${event.environment}`)?.look();
			case 'applied':
				for (const key of new Set(event.items.map((item) => `${item.app}/${item.environment}`))) this.#lanes.get(key)?.look();
				return;
			case 'stats':
				return this.#counted(event.stats.second, event.stats.rows);
			case 'ahead':
				return this.ahead(event);
			case 'servers':
				return this.#placing.candidates.heard(event.region);
			case 'task': {
				const lane = this.#lanes.get(`${event.said.app}/${event.said.environment}`);
				return lane?.tasks.said(lane, event.said);
			}
			case 'lost':
			case 'back':
			case 'presence':
				this.#presence.look();
				this.#placing.candidates.heard(event.region);
				for (const lane of this.#lanes.values()) lane.tasks.again(lane, event.region);
				this.#lookAll();
		}
	}

	#lookAll(): void {
		for (const lane of this.#lanes.values()) lane.look();
	}

	#counted(second: number, rows: Extract<HubEvent, { type: 'stats' }>['stats']['rows']): void {
		const byLane = Map.groupBy(rows, (row) => `${row.app}/${row.environment}`);
		for (const [key, counted] of byLane) {
			const lane = this.#lanes.get(key);
			lane?.ledger.count(second, counted);
			lane?.look();
		}
	}

	#refuseReadOnly(app: string): void {
		const reason = this.readOnly(app);
		if (reason === null) return;
		throw new Refusal(
			'read_only',
			409,
			`${app} is read-only: ${reason}`,
			`what serves goes on; \`jibe control recover ${app}\` makes what the regions serve the truth again`,
		);
	}
}
