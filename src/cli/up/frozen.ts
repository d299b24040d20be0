import { readFileSync } from 'node:fs';
import { connect } from 'node:net';
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

const LOOK_MS = 200;
/** Who may be silent for long is asked seldom: an answer costs both sides, and every server has five programs. */
const ASKS_WITHIN_LIMIT = 4;
/** A program that wants to run but gets no processor or disk, or computes, is given this much more time. */
const BUSY_FACTOR = 5;
/** A program that has not answered yet may still be starting. */
const START_MS = 10_000;

export function watchFrozen(watched: readonly Watched[]): Timer {
	const silent = new Map<Watched, MonotonicMs>();
	const asking = new Set<Watched>();
	const askedAt = new Map<Watched, MonotonicMs>();
	/** Over their limit when last looked at. */
	const suspects = new Set<Watched>();
	/** The process that has answered once; before, it is given the time to start. */
	const met = new Map<Watched, string>();
	let lastLook = systemClock.monotonic();
	return systemClock.every(LOOK_MS, () => {
		const now = systemClock.monotonic();
		// When this process itself was stopped or starved, nobody's silence means anything.
		if (now - lastLook > LOOK_MS * 2) silent.clear();
		lastLook = now;
		for (const one of watched) {
			const identity = one.identity();
			if (identity === null) {
				silent.delete(one);
				suspects.delete(one);
				askedAt.delete(one);
				continue;
			}
			if (!asking.has(one) && now - (askedAt.get(one) ?? -Infinity) >= one.limitMs / ASKS_WITHIN_LIMIT) {
				asking.add(one);
				askedAt.set(one, now);
				answers(one, identity).then((answered) => {
					asking.delete(one);
					if (!answered) return;
					silent.delete(one);
					suspects.delete(one);
					met.set(one, identity.start);
				}, noAnswer(one));
			}
			judge(one, identity, now);
		}
	});

	function noAnswer(one: Watched): () => void {
		return () => void asking.delete(one);
	}

	function judge(one: Watched, identity: Identity, now: MonotonicMs): void {
		const since = silent.get(one);
		if (since === undefined) {
			silent.set(one, now);
			return;
		}
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
function answers(one: Watched, identity: Identity): Promise<boolean> {
	if (one.target === null) return Promise.resolve(!isStopped(identity.pid));
	if ('greeting' in one.target) return greets(one.target.greeting, one.limitMs);
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

async function greets(path: string, withinMs: number): Promise<boolean> {
	return (await greeting(path, withinMs)) !== null;
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
