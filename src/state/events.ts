import { sql } from 'kysely';
import type pg from 'pg';
import { type Clock, type Timer } from '#clock/clock.ts';
import type { Log } from '#log/log.ts';
import type { Event } from '#wire/api.ts';
import { toJson, type Database } from './database.ts';
import { StateError, type Events, type NewEvent } from './state.ts';

export const EVENT_PAGE = 1_000;
/** NOTIFY is only a hint, and lost with its connection. */
const POLL_EACH_MS = 1_000;
const RECONNECT_AFTER_MS = 250;

export interface EventFeed extends Events {
	/** Something was committed: look at once instead of when the server's hint comes. */
	hint(): void;
	close(): Promise<void>;
}

/** The outbox: read from a cursor on, told to whoever subscribes. */
export async function openEvents(db: Database, options: { log: Log; clock: Clock }): Promise<EventFeed> {
	const feed = new Feed(db, options.log, options.clock);
	await feed.begin();
	return feed;
}

class Feed implements EventFeed {
	private readonly db: Database;
	private readonly log: Log;
	private readonly clock: Clock;
	private readonly listeners = new Set<(event: Event) => void>();
	private newest = 0;
	/** The server said that there are events up to this one. */
	private wanted = 0;
	private reading: Promise<void> | null = null;
	private again = false;
	private poll: Timer | null = null;
	private line: pg.Client | null = null;
	private closed = false;

	constructor(db: Database, log: Log, clock: Clock) {
		this.db = db;
		this.log = log;
		this.clock = clock;
	}

	async begin(): Promise<void> {
		this.newest = await this.latest();
		await this.listen();
		this.poll = this.clock.every(POLL_EACH_MS, () => this.hint());
	}

	async after(cursor: number, limit: number = EVENT_PAGE): Promise<Event[]> {
		const from = Math.max(0, cursor);
		const events = await this.page(from, Math.min(limit, EVENT_PAGE));
		// Asked after the page: what was pruned meanwhile is noticed.
		const [bounds] = await this.db.rows(this.bounds());
		if (!bounds || cursor < bounds.pruned) {
			throw new StateError(
				'cursor_pruned',
				`events up to ${bounds?.pruned} are no longer kept, so those after ${cursor} can't be replayed: take a snapshot and go on from its cursor`,
			);
		}
		if (cursor > bounds.latest) {
			throw new StateError(
				'cursor_pruned',
				`there is no event ${cursor} (the newest is ${bounds.latest}; was the database restored?): take a snapshot and go on from its cursor`,
			);
		}
		return events;
	}

	async latest(): Promise<number> {
		const [row] = await this.db.rows(this.bounds());
		return row?.latest ?? 0;
	}

	seen(): number {
		return this.newest;
	}

	async rewound(): Promise<boolean> {
		const latest = await this.latest();
		if (latest >= this.newest) return false;
		this.log.warn('events.rewound', { seen: this.newest, latest });
		this.newest = latest;
		return true;
	}

	subscribe(listener: (event: Event) => void): () => void {
		this.listeners.add(listener);
		return () => this.listeners.delete(listener);
	}

	async add(events: readonly NewEvent[]): Promise<void> {
		await this.db.call('jibe_publish', 'select jibe.publish($1)', [toJson(events)]);
		this.hint();
	}

	hint(): void {
		if (this.closed) return;
		this.again = true;
		this.reading ??= this.read().finally(() => {
			this.reading = null;
			if (this.again) this.hint();
		});
	}

	private notified(cursor: number): void {
		// What was changed here was read before its notification came.
		if (cursor <= this.newest) return;
		this.wanted = cursor;
		if (!this.reading) this.hint();
	}

	async close(): Promise<void> {
		this.closed = true;
		this.poll?.cancel();
		const line = this.line;
		this.line = null;
		await line?.end();
		await this.reading;
	}

	private async read(): Promise<void> {
		while ((this.again || this.wanted > this.newest) && !this.closed) {
			this.again = false;
			try {
				const events = await this.page(this.newest, EVENT_PAGE);
				this.again ||= events.length === EVENT_PAGE;
				for (const event of events) this.tell(event);
				// Of a database that was set back since.
				if (events.length === 0) this.wanted = this.newest;
			} catch (error) {
				this.wanted = this.newest;
				// The poll tries again; nothing is lost, for the cursor did not move.
				if (!this.closed) this.log.warn('events.unreadable', { error });
			}
		}
	}

	private tell(event: Event): void {
		this.newest = event.cursor;
		for (const listener of this.listeners) {
			try {
				listener(event);
			} catch (error) {
				// One listener's mistake must not cost the others their event.
				this.log.error('events.listener_failed', { error, type: event.type });
			}
		}
	}

	private page(after: number, limit: number): Promise<Event[]> {
		const text = `select coalesce(json_agg(e order by cursor), '[]')
			from (select * from jibe.event where cursor > $1 order by cursor limit $2) e`;
		return this.db.call('jibe_events', text, [after, limit]);
	}

	/** The sequence only moves within the lock of `publish`, so a reader of the table never sees a gap that fills later. */
	private bounds() {
		return this.db.build
			.selectFrom('jibe.installation')
			.select((row) => [
				'pruned_cursor as pruned',
				sql<number>`greatest(${row.ref('pruned_cursor')}, coalesce((select max(cursor) from jibe.event), 0))`.as('latest'),
			]);
	}

	private async listen(): Promise<void> {
		if (this.closed) return;
		const line = this.db.client();
		let lost = false;
		const reconnect = () => {
			if (lost) return;
			lost = true;
			if (this.line === line) this.line = null;
			void line.end().catch(() => {}); // it has ended already, or never began
			if (!this.closed) this.clock.after(RECONNECT_AFTER_MS, () => void this.listen(), { idle: true });
		};
		line.on('error', reconnect);
		line.on('end', reconnect);
		line.on('notification', ({ payload }) => this.notified(Number(payload)));
		try {
			await line.connect();
			await line.query('listen jibe_events');
			if (this.closed) return void line.end();
			this.line = line;
			this.hint();
		} catch (error) {
			this.log.debug('events.listen_failed', { error });
			reconnect();
		}
	}
}
