import type { IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import { WebSocketServer, type WebSocket } from 'ws';
import type { Timer } from '#clock/clock.ts';
import { StateError } from '#state/state.ts';
import { refuseUpgrade } from '#wire/accept.ts';
import type { AppStatus, Event, FeedFrame, Token } from '#wire/api.ts';
import { authenticate, checkOrigin, sees } from './access.ts';
import type { House } from './house.ts';
import { Refusal } from './ports.ts';
import { toRefusal } from './router.ts';
import { appStatus, regionStatuses } from './status.ts';

/**
 * `/api/v1/events?after=<cursor>`: every event after the cursor, in order, then those that come. Without a cursor, and
 * with one whose events are gone, a snapshot comes first. One frame an event is built, however many read.
 */

export const FEED_PATH = '/api/v1/events';
const CLIENTS_MAX = 2_000;
/** A reader this far behind is dropped: it comes back with its cursor. */
const MAX_UNREAD_BYTES = 8 * 1024 * 1024;
const PING_MS = 20_000;
const RECENT_DEPLOYMENTS = 30;
const CLOSE_TRY_LATER = 1013;
const CLOSE_GOING_AWAY = 1001;
const CLOSE_RESTART = 1012;

interface Reader {
	socket: WebSocket;
	token: Token;
	/** Newest cursor that was sent. */
	sent: number;
	/** Events that came while older ones are still being replayed. */
	waiting: { event: Event; text: string }[] | null;
	answered: boolean;
}

export class Feed {
	private readonly sockets = new WebSocketServer({ noServer: true, maxPayload: 1024, perMessageDeflate: false });
	private readonly readers = new Set<Reader>();
	private readonly house: House;
	private readonly names: readonly string[];
	private readonly stop: () => void;
	private readonly pinging: Timer;

	constructor(house: House, names: readonly string[]) {
		this.house = house;
		this.names = names;
		this.stop = house.state.events.subscribe((event) => this.tell(event));
		this.pinging = house.clock.every(PING_MS, () => this.ping());
	}

	/** Takes an upgrade to the feed's path; others are refused. */
	upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void {
		this.admit(request).then(
			({ token, after }) => this.sockets.handleUpgrade(request, socket, head, (reader) => this.begin(reader, token, after)),
			(error: unknown) => {
				const { status, code, message } = toRefusal(error, FEED_PATH, this.house.log);
				refuseUpgrade(socket, status, code, message);
			},
		);
	}

	/** Every reader comes back with its cursor, and gets a snapshot where that is of another time. */
	restart(): void {
		for (const { socket } of this.readers) socket.close(CLOSE_RESTART, 'the database was replaced');
	}

	close(): void {
		this.stop();
		this.pinging.cancel();
		for (const { socket } of this.readers) {
			socket.close(CLOSE_GOING_AWAY, 'control is stopping');
			socket.terminate();
		}
		this.sockets.close();
	}

	private async admit(request: IncomingMessage): Promise<{ token: Token; after: number | null }> {
		checkOrigin(request, this.names);
		const { token } = await authenticate(request, this.house.state);
		const text = new URLSearchParams((request.url ?? '').split('?', 2)[1]).get('after');
		const after = text === null || !/^\d{1,15}$/.test(text) ? null : Number(text);
		return { token, after };
	}

	private begin(socket: WebSocket, token: Token, after: number | null): void {
		if (this.readers.size >= CLIENTS_MAX) return socket.close(CLOSE_TRY_LATER, 'too many readers');
		const reader: Reader = { socket, token, sent: after ?? 0, waiting: [], answered: true };
		this.readers.add(reader);
		this.count();
		socket.on('pong', () => (reader.answered = true));
		socket.on('error', (error) => this.house.log.debug('feed.socket_error', { error }));
		socket.on('close', () => {
			this.readers.delete(reader);
			this.count();
		});
		this.replay(reader, after).catch((error: unknown) => {
			this.house.log.warn('feed.replay_failed', { error });
			socket.close(CLOSE_TRY_LATER, 'the events could not be read; try again');
		});
	}

	private async replay(reader: Reader, after: number | null): Promise<void> {
		if (after === null) await this.snapshot(reader);
		for (;;) {
			const page = await this.page(reader);
			for (const event of page) this.send(reader, event, frame({ event }));
			if (page.length === 0 || reader.socket.readyState !== reader.socket.OPEN) break;
		}
		const waiting = reader.waiting ?? [];
		reader.waiting = null;
		for (const { event, text } of waiting) this.send(reader, event, text);
	}

	private async page(reader: Reader): Promise<Event[]> {
		try {
			return await this.house.state.events.after(reader.sent);
		} catch (error) {
			if (!(error instanceof StateError && error.code === 'cursor_pruned')) throw error;
			await this.snapshot(reader);
			return this.house.state.events.after(reader.sent);
		}
	}

	private async snapshot(reader: Reader): Promise<void> {
		const { state } = this.house;
		const cursor = await state.events.latest();
		const rows = (await state.apps.list()).filter(({ app }) => sees(reader.token, app));
		const found = await Promise.all(rows.flatMap(({ app, environments }) => environments.map((each) => this.status(app, each, reader))));
		const apps = found.filter((status) => status !== null);
		const history = await state.deployments.history({ limit: RECENT_DEPLOYMENTS });
		const deployments = history.filter(({ app }) => sees(reader.token, app));
		reader.socket.send(frame({ snapshot: { cursor, apps, regions: regionStatuses(this.house), deployments } }));
		reader.sent = cursor;
	}

	/** null: removed since the list was read. */
	private async status(app: string, environment: string, reader: Reader): Promise<AppStatus | null> {
		try {
			return await appStatus(this.house, app, environment, reader);
		} catch (error) {
			if (error instanceof Refusal) return null;
			throw error;
		}
	}

	private tell(event: Event): void {
		if (this.readers.size === 0) return;
		const text = frame({ event });
		for (const reader of this.readers) {
			if (reader.waiting) reader.waiting.push({ event, text });
			else this.send(reader, event, text);
		}
	}

	private send(reader: Reader, event: Event, text: string): void {
		if (event.cursor <= reader.sent) return;
		reader.sent = event.cursor;
		if (event.app === null ? !isForAll(event) && reader.token.role !== 'admin' : !sees(reader.token, event.app)) return;
		if (reader.socket.bufferedAmount > MAX_UNREAD_BYTES) return reader.socket.terminate();
		reader.socket.send(text);
	}

	private ping(): void {
		for (const reader of this.readers) {
			if (!reader.answered) reader.socket.terminate();
			reader.answered = false;
			reader.socket.ping();
		}
	}

	private count(): void {
		this.house.metrics.set('jibe_feed_clients', {}, this.readers.size);
	}
}

/** Of what belongs to no app only regions concern everybody; tokens and the like are for admins. */
function isForAll({ type }: Event): boolean {
	return type.startsWith('region.');
}

function frame(of: FeedFrame): string {
	return JSON.stringify(of);
}
