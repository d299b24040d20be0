import { readFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { request } from 'node:http';
import { systemClock, type MonotonicMs, type Timer } from '#clock/clock.ts';
import type { Identity } from '#process/identity.ts';

/**
 * Finds programs that live but do nothing: stopped, caught in a loop, or waiting for ever. A program is asked on a
 * socket of its own; the kernel accepts connections for a stopped process, so only an answer counts.
 */
export interface Watched {
	/** Null while it is not running. */
	identity(): Identity | null;
	/** How it is asked; null: only its state in the kernel is looked at. */
	target: Target | null;
	/** Without an answer for longer than this it is frozen. */
	limitMs: number;
	frozen(why: string): void;
}

/** A unix socket that says something as soon as one connects, or an HTTP server where any answer will do. */
export type Target = { greeting: string } | { http: { port: number; path: string } } | { httpSocket: string };

const LOOK_MS = 400;
/** While an answer is missing. */
const LOOK_AGAIN_MS = 200;
/** So often within its limit a program is asked, at most at every look. */
const ASKS_WITHIN_LIMIT = 5;
/** A program that wants to run but gets no processor or disk, or computes, is given this much more time. */
const BUSY_FACTOR = 5;
/** A program that has not answered yet may still be starting. */
const START_MS = 10_000;

export function watchFrozen(watched: readonly Watched[]): Timer {
	const silent = new Map<Watched, MonotonicMs>();
	const asking = new Set<Watched>();
	/** When each is asked the next time. */
	const due = new Map<Watched, MonotonicMs>();
	const lines = new Map<Watched, Line>();
	/** Over their limit when last looked at. */
	const suspects = new Set<Watched>();
	/** The process that has answered once; before, it is given the time to start. */
	const met = new Map<Watched, string>();
	let expected = systemClock.monotonic();
	let timer = systemClock.after(0, lookAtAll, { idle: true });
	return {
		cancel() {
			timer.cancel();
			for (const line of lines.values()) line.close();
		},
	};

	function lookAtAll(): void {
		const now = systemClock.monotonic();
		// When this process itself was stopped or starved, nobody's silence means anything.
		if (now - expected > LOOK_AGAIN_MS) silent.clear();
		const waited = silent.size > 0;
		for (const one of watched) look(one, now);
		const delayMs = waited ? LOOK_AGAIN_MS : LOOK_MS;
		expected = now + delayMs;
		timer = systemClock.after(delayMs, lookAtAll, { idle: true });
	}

	function look(one: Watched, now: MonotonicMs): void {
		const identity = one.identity();
		if (identity === null) {
			silent.delete(one);
			suspects.delete(one);
			due.delete(one);
			return;
		}
		const since = silent.get(one);
		if (since !== undefined) judge(one, identity, since, now);
		else if (!asking.has(one) && now < (due.get(one) ?? 0)) return;
		else silent.set(one, now);
		if (asking.has(one)) return;
		asking.add(one);
		// Less than a look earlier: the timer's jitter is not to make it one look later.
		due.set(one, now + one.limitMs / ASKS_WITHIN_LIMIT - LOOK_AGAIN_MS / 2);
		answers(one, identity, lineTo(one)).then((answered) => {
			asking.delete(one);
			if (!answered) return;
			silent.delete(one);
			suspects.delete(one);
			met.set(one, identity.start);
		}, noAnswer(one));
	}

	function lineTo(one: Watched): Line | null {
		if (one.target === null || !('greeting' in one.target)) return null;
		const line = lines.get(one) ?? new Line(one.target.greeting, one.limitMs);
		lines.set(one, line);
		return line;
	}

	function noAnswer(one: Watched): () => void {
		return () => void asking.delete(one);
	}

	function judge(one: Watched, identity: Identity, since: MonotonicMs, now: MonotonicMs): void {
		const knownMs = met.get(one) === identity.start ? one.limitMs : Math.max(one.limitMs, START_MS);
		const limitMs = /[RD]/.test(kernelState(identity.pid) ?? '') ? knownMs * BUSY_FACTOR : knownMs;
		if (now - since <= limitMs) return;
		// Its answer may have come while we had no processor time ourselves: we read before we judge.
		if (!suspects.delete(one)) return void suspects.add(one);
		silent.delete(one);
		one.frozen(`no answer for ${Math.round(now - since)} ms`);
	}
}

/** Rejects or resolves false without an answer. */
function answers(one: Watched, identity: Identity, line: Line | null): Promise<boolean> {
	if (line !== null) return line.ask();
	if (one.target === null || 'greeting' in one.target) return Promise.resolve(!isStopped(identity.pid));
	const where = 'http' in one.target ? { host: '127.0.0.1', ...one.target.http } : { socketPath: one.target.httpSocket, path: '/' };
	return new Promise((resolve, reject) => {
		const asked = request({ ...where, agent: false, timeout: one.limitMs }, (response) => {
			response.resume();
			resolve(true);
		});
		asked.once('timeout', () => asked.destroy(new Error('no answer')));
		asked.once('error', reject);
		asked.end();
	});
}

/** A connection to what greets, held and asked again and again: a new one for each question costs both sides ten times as much. */
class Line {
	readonly #path: string;
	readonly #withinMs: number;
	#socket: Socket | null = null;
	#answered: ((answered: boolean) => void) | null = null;

	constructor(path: string, withinMs: number) {
		this.#path = path;
		this.#withinMs = withinMs;
	}

	/** One question at a time. */
	ask(): Promise<boolean> {
		return new Promise((resolve) => {
			this.#answered = resolve;
			this.#socket ??= this.#connect();
			this.#socket.setTimeout(this.#withinMs);
			this.#socket.write('\n');
		});
	}

	close(): void {
		this.#socket?.destroy();
	}

	#connect(): Socket {
		const socket = connect(this.#path);
		socket.on('data', () => {
			socket.setTimeout(0);
			this.#answered?.(true);
		});
		socket.on('timeout', () => socket.destroy());
		// What ends the line is told by `close`.
		socket.on('error', () => {});
		socket.once('close', () => {
			if (this.#socket === socket) this.#socket = null;
			this.#answered?.(false);
		});
		return socket;
	}
}

/** What a program says of itself to whom connects; null: nothing. Rejects where there is none. */
export function greeting(path: string, withinMs: number): Promise<string | null> {
	return new Promise((resolve, reject) => {
		const socket = connect(path);
		socket.setTimeout(withinMs, () => socket.destroy(new Error('no answer')));
		socket.once('data', (said: Buffer) => {
			resolve(said.toString().trim());
			socket.destroy();
		});
		socket.once('error', reject);
		socket.once('close', () => resolve(null));
	});
}

function isStopped(pid: number): boolean {
	const state = kernelState(pid);
	return state === 'T' || state === 't';
}

function kernelState(pid: number): string | null {
	try {
		const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
		return stat.charAt(stat.lastIndexOf(')') + 2);
	} catch {
		return null; // ended, or not Linux
	}
}
