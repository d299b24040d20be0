import type { Timer } from '#clock/clock.ts';
import type { Membership, State } from '#state/state.ts';
import type { Event } from '#wire/api.ts';
import { compareVersions, wantKey, type Known, type Want } from '#wire/region.ts';
import { writtenBy } from './driver/written.ts';
import type { House } from './house.ts';
import { namedBy } from './hub.ts';

/**
 * The other control processes on this database. What they write reaches this one's regions and lanes by the database's
 * events; what one of them drove is taken over when it is gone; and a database that went back in time is noticed.
 */

export interface OthersOptions {
	id: string;
	/** Of the machine and directory that this one runs in. */
	home: string;
	/** Where people and programs reach it. */
	addresses: readonly string[];
	version: string;
	/** The newest cursor that a control of this directory has read, kept where a restored database does not take it along. */
	memory?: { read(installation: string): number; write(installation: string, cursor: number): void } | undefined;
	/** Others than the usual ones, for tests. */
	times?: { beatMs: number; leaseMs: number; lookMs: number } | undefined;
}

const REMEMBER_EACH_MS = 10_000;
/** Whoever wrote tells the regions itself, which have links to all: it is no matter that this one does so a little later. */
const OWN_WRITE_MS = 100;
const NONE: ReadonlySet<string> = new Set();

export class Others {
	private membership: Membership | null = null;
	private readonly state: State;
	private readonly of: OthersOptions;
	private house: House | null = null;
	private stop = () => {};
	private closed = false;
	private remembering: Timer | null = null;
	private remembered = 0;
	/** The highest that is known. */
	private epoch = 0;
	/** Apps and environments whose wants have to be read again. */
	private readonly changed = new Map<string, { app: string; environment: string }>();
	private reading: Promise<void> | null = null;
	/** The feed begins anew: cursors of before may name other events now. */
	private readonly rewound: () => void;

	constructor(state: State, of: OthersOptions, rewound: () => void) {
		this.state = state;
		this.of = of;
		this.rewound = rewound;
	}

	/** Those that live, as far as is known. */
	ids(): ReadonlySet<string> {
		return this.membership?.others() ?? NONE;
	}

	/** Nothing is decided while it is not known whether the database is what it was. @throws StateError database_unavailable */
	async settled(): Promise<void> {
		await this.membership?.settled();
	}

	/** Where they are reached. */
	addresses(): string[] {
		return this.membership?.peers().flatMap((peer) => peer.addresses) ?? [];
	}

	/** From now on this process is one of them. Before the driver resumes: what is others' is theirs. */
	async join(house: House): Promise<void> {
		this.house = house;
		this.epoch = house.installation.epoch;
		const remembered = this.of.memory?.read(house.installation.id) ?? 0;
		if (remembered > (await this.state.events.latest())) await this.setBack(house, remembered);
		this.remembering = house.clock.every(REMEMBER_EACH_MS, () => this.remember());
		this.stop = this.state.events.subscribe((event) => this.heard(house, event));
		for (const { app, readOnly } of await this.state.apps.list()) if (readOnly !== null) house.driver.setReadOnly(app, readOnly);
		const { id, home, addresses, version, times } = this.of;
		this.membership = await this.state.replicas.join({
			id,
			home,
			addresses: [...addresses],
			version,
			...(times ? { times } : {}),
			onGone: (gone) => house.driver.takeOver(gone),
			onReturned: () => this.returned(house),
		});
	}

	/** Others may have what this one drove at once. */
	async close(): Promise<void> {
		this.closed = true;
		this.stop();
		this.remembering?.cancel();
		this.remember();
		await this.reading;
		await this.membership?.leave();
	}

	private heard(house: House, event: Event): void {
		const { app, environment, type, data } = event;
		house.driver.heard(event);
		if (type === 'app.recovered' && app !== null) return this.logged(this.recovered(house, app));
		if (type === 'app.read_only' && app !== null && typeof data['reason'] === 'string') house.driver.setReadOnly(app, data['reason']);
		if (type === 'epoch.raised') this.epoch = Math.max(this.epoch, Number(data['epoch']));
		if (type === 'epoch.raised') return this.logged(this.verify(house));
		if (app === null || environment === null) return;
		const written = writtenBy(type, data);
		const place = { app, environment };
		if (!isNews(house, place, written)) return;
		// The event of this very process's write comes before the answer to it, after which the regions are told, and given what they need.
		const look = () => {
			if (this.closed || !isNews(house, place, written)) return;
			this.changed.set(`${app}/${environment}`, place);
			this.reading ??= this.readChanged(house).finally(() => (this.reading = null));
		};
		house.clock.after(OWN_WRITE_MS, look, { idle: true });
	}

	/** What others wrote is told to the regions by this one too: to some only this one may have a link. */
	private async readChanged(house: House): Promise<void> {
		for (const [key, of] of this.changed) {
			this.changed.delete(key);
			try {
				await this.learn(house, await this.state.deployments.wants(of));
			} catch (error) {
				// Whoever comes back is told, and asks the database first.
				house.log.warn('wanted.unread', { ...of, error });
			}
		}
	}

	private async learn({ hub }: House, wants: readonly Want[]): Promise<void> {
		const held = new Map([...hub.wanted()].map((want) => [wantKey(want), want]));
		const newer = wants.filter((want) => {
			const known = held.get(wantKey(want));
			return !known || compareVersions(want, known) > 0;
		});
		for (const [app, theirs] of Map.groupBy(newer, (want) => want.app)) {
			const releases = await this.state.deployments.releases(app, [...new Set(theirs.flatMap(namedBy))]);
			hub.send(theirs, releases, null);
		}
	}

	/** This process was cut off, frozen, or its database was away or replaced. */
	private async returned(house: House): Promise<void> {
		const before = this.state.events.seen();
		await this.state.checkTimeline();
		if (await this.state.events.rewound()) {
			await this.setBack(house, before);
			this.rewound();
		}
		await this.verify(house);
		// Its lanes wait until this is over.
		this.logged(house.driver.verify());
	}

	/** A backup in the place of the database, by a way that leaves no other trace: events that there were are not there any more. */
	private async setBack({ log }: House, seen: number): Promise<void> {
		const known = this.epoch;
		this.epoch = (await this.state.installation()).epoch;
		// By its timeline, or by another replica.
		if (this.epoch > known) return;
		this.epoch = await this.state.raiseEpoch('jibe', { above: known, lost: true });
		log.warn('epoch.raised', { reason: 'the database was set back', seen, epoch: this.epoch });
	}

	private remember(): void {
		const seen = this.state.events.seen();
		if (seen === this.remembered || !this.house) return;
		this.remembered = seen;
		this.of.memory?.write(this.house.installation.id, seen);
	}

	/** What this process was told by the database before and it does not know any more: it was restored, or another took its place. */
	private async verify(house: House): Promise<void> {
		const before = [...house.hub.wanted()];
		const wants = await this.state.deployments.wants({});
		const known = new Map(wants.map((want) => [wantKey(want), want]));
		for (const want of before) {
			const now = known.get(wantKey(want));
			// What was removed is forgotten after a while.
			const ahead = now ? compareVersions(want, now) > 0 : !want.removed;
			if (ahead) house.driver.ahead(knownOf(want));
		}
		await this.learn(house, wants);
	}

	private async recovered(house: House, app: string): Promise<void> {
		await house.driver.recovered(app);
		await house.hub.refreshAll();
	}

	private logged(work: Promise<void>): void {
		work.catch((error: unknown) => this.house?.log.warn('others.unheard', { error }));
	}
}

/** What the hub does not hold yet. */
function isNews({ hub }: House, place: { app: string; environment: string }, written: ReturnType<typeof writtenBy>): boolean {
	const held = new Map([...hub.wanted()].filter((want) => want.app === place.app).map((want) => [wantKey(want), want]));
	return written.some((version) => {
		const want = held.get(wantKey({ ...version, ...place }));
		return !want || compareVersions(version, want) > 0;
	});
}

function knownOf({ region, app, environment, epoch, version }: Want): Known {
	return { region, app, environment, epoch, version };
}
