import { once } from 'node:events';
import { WebSocket } from 'ws';
import { systemClock } from '#clock/clock.ts';
import { createLog } from '#log/log.ts';
import { openState } from '#state/open.ts';
import type { State } from '#state/state.ts';
import { BenchControl } from './control.ts';
import { percentile, type Row } from './row.ts';

/** From the transaction that publishes an event, in one process, to a reader of the feed of a control in another. */
const STEADY_PER_S = 170;
const STEADY_MS = 15_000;
const MOST_EVENTS = 15_000;
/** Transactions at once, of one event each. */
const WRITERS = 8;

export async function bench(): Promise<Row[]> {
	const control = new BenchControl();
	try {
		await control.start();
		const state = await openState({ database: control.databaseUrl, log: createLog({}, { level: 'error' }), clock: systemClock });
		const reader = await Reader.open(control);
		await most(state, reader, MOST_EVENTS / 5);
		const latencies = await steady(state, reader);
		const perS = await most(state, reader, MOST_EVENTS);
		reader.close();
		await state.close();
		return [
			{ row: 'events-p99', value: percentile(latencies, 0.99), unit: 'ms', bar: 20, goal: 5 },
			{ row: 'events-max', value: Math.round(perS), unit: '1/s', bar: 1500, goal: 3000 },
		];
	} finally {
		await control.stop();
	}
}

async function steady(state: State, reader: Reader): Promise<number[]> {
	const latencies: number[] = [];
	reader.onEvent = (sentAt) => latencies.push(performance.now() - sentAt);
	const count = (STEADY_PER_S * STEADY_MS) / 1000;
	const begin = performance.now();
	for (let n = 0; n < count; n++) {
		const wait = begin + (n * 1000) / STEADY_PER_S - performance.now();
		if (wait > 0) await new Promise((resolve) => setTimeout(resolve, wait));
		void publish(state);
	}
	await reader.count(count);
	return latencies;
}

/** Events a second, from the first transaction until the reader has them all. */
async function most(state: State, reader: Reader, events: number): Promise<number> {
	reader.onEvent = () => {};
	const begin = performance.now();
	let left = events;
	const write = async () => {
		while (left-- > 0) await publish(state);
	};
	await Promise.all(Array.from({ length: WRITERS }, write));
	await reader.count(events);
	return (events / (performance.now() - begin)) * 1000;
}

function publish(state: State): Promise<void> {
	const data = { sentAt: performance.now(), state: 'Building', from: 'Queued' };
	return state.events.add([{ at: Date.now(), type: 'bench', app: 'notes', environment: 'production', deployment: null, data }]);
}

class Reader {
	readonly #socket: WebSocket;
	#seen = 0;
	#more = () => {};
	onEvent: (sentAt: number) => void = () => {};

	private constructor(socket: WebSocket) {
		this.#socket = socket;
		socket.on('message', (text: Buffer) =>
			this.#frame(JSON.parse(text.toString()) as { event?: { type: string; data: { sentAt: number } } }),
		);
	}

	static async open(control: BenchControl): Promise<Reader> {
		const socket = new WebSocket(`${control.url.replace('http', 'ws')}/api/v1/events`, {
			headers: { authorization: `Bearer ${control.admin}` },
		});
		await once(socket, 'open');
		return new Reader(socket);
	}

	/** Resolves when so many more have come than at the last call. */
	async count(events: number): Promise<void> {
		while (this.#seen < events) await new Promise<void>((resolve) => (this.#more = resolve));
		this.#seen -= events;
	}

	close(): void {
		this.#socket.close();
	}

	#frame({ event }: { event?: { type: string; data: { sentAt: number } } }): void {
		if (event?.type !== 'bench') return;
		this.onEvent(event.data.sentAt);
		this.#seen++;
		this.#more();
	}
}
