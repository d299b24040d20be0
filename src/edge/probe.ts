import type { Clock } from '#clock/clock.ts';
import type { DownMessage, Probed } from '#wire/region.ts';
import { Connection, type UpstreamExchange } from './connection.ts';
import type { ResponseHead } from './response-reader.ts';
import type { Serving } from './serving.ts';
import type { Upstream } from './upstream.ts';

type Probe = Extract<DownMessage, { type: 'probe' }>;

/** Asks instances of the releases in turns, over connections of its own, and tells what came back, also of those the verdict discards. Counts in no statistics. */
export async function runProbe(probe: Probe, serving: Serving | null, clock: Clock): Promise<Probed> {
	const answer = (samples: Probed['samples'], error: string | null): Probed => ({ type: 'probed', id: probe.id, samples, error });
	if (serving === null) return answer([], `nothing is known here of ${probe.app} (${probe.environment}) in ${probe.region}`);
	const [judged] = probe.releases;
	if (probe.whenReady && judged !== undefined) await ready(serving, judged, clock);
	if (judged === undefined || serving.near(judged) === null) return answer([], `no instance of v${judged} is running in ${probe.region}`);
	// The others are there to compare with. One that is down or hangs must not keep what may be its cure from going live.
	const asked = new Set(probe.releases.filter((release) => serving.near(release) !== null));
	const samples: Probed['samples'] = [];
	const connections = new Map<Upstream, Connection>();
	for (let round = 0; round < probe.discard + probe.count; round++) {
		for (const release of asked) {
			const upstream = serving.near(release);
			const sample = upstream === null ? LOST : await ask(upstream, connections, probe, serving, clock);
			samples.push({ release, ...sample });
			if (sample.status === 0 && release !== judged) asked.delete(release);
		}
	}
	for (const connection of connections.values()) connection.close();
	return answer(samples, null);
}

/** Resolves once the release has an instance that can be asked, or after a while. */
async function ready(serving: Serving, release: number, clock: Clock): Promise<void> {
	const until = clock.monotonic() + READY_WITHIN_MS;
	while (serving.near(release)?.healthy !== true) {
		const leftMs = until - clock.monotonic();
		const changed = new Promise<boolean>((resolve) => {
			if (leftMs <= 0 || serving.wait(() => resolve(true), leftMs) === null) resolve(false);
		});
		if (!(await changed)) return;
	}
}

interface Sample {
	/** 0: no answer. */
	status: number;
	ms: number;
}
const LOST: Sample = { status: 0, ms: 0 };
/** Without a spec there is no time limit of the app's own. */
const TIMEOUT_MS = 2_000;
/** Less than control waits for the answer. */
const READY_WITHIN_MS = 12_000;

function ask(upstream: Upstream, connections: Map<Upstream, Connection>, probe: Probe, serving: Serving, clock: Clock): Promise<Sample> {
	const health = serving.releases.get(upstream.release)?.spec.health;
	const { promise, resolve } = Promise.withResolvers<Sample>();
	const from = clock.monotonic();
	let status = 0;
	const timer = clock.after(health?.timeoutMs ?? TIMEOUT_MS, () => {
		connection.abandon();
		connections.delete(upstream);
		done(0);
	});
	const done = (result: number): void => {
		timer.cancel();
		resolve({ status: result, ms: clock.monotonic() - from });
	};
	const exchange: UpstreamExchange = {
		onConnected: () => {},
		onWritable: () => {},
		onInformation: () => {},
		onHead: (head: ResponseHead) => (status = head.status),
		onBody: () => {},
		onRead: () => {},
		onEnd: () => done(status),
		onFailed: () => {
			connections.delete(upstream);
			done(0);
		},
		repeatable: () => true,
		requestSent: () => true,
	};
	const connection = connections.get(upstream) ?? openFor(upstream, connections);
	connections.set(upstream, connection);
	connection.ask(exchange, probeHead(probe, health?.path ?? '/'), false);
	return promise;
}

function openFor(upstream: Upstream, connections: Map<Upstream, Connection>): Connection {
	return new Connection(upstream.way, {
		onConnected: () => {},
		onConnectFailed: () => {},
		// It stays in the map, for the next question.
		onIdle: () => {},
		onClosed: () => connections.delete(upstream),
	});
}

function probeHead(probe: Probe, path: string): string {
	const host = probe.environment === 'production' ? `${probe.app}.localhost` : `${probe.environment}--${probe.app}.localhost`;
	return `GET ${path} HTTP/1.1\r\nhost: ${host}\r\naccept: */*\r\nuser-agent: jibe-probe\r\nx-jibe-probe: ${probe.id.replace(/[^\w-]/g, '')}\r\nx-forwarded-proto: http\r\n\r\n`;
}
