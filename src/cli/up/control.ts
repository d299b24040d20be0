import { existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { join } from 'node:path';
import { pause, systemClock, type MonotonicMs } from '#clock/clock.ts';
import type { ControlAnswer } from '#wire/join.ts';
import { ask, type Server } from '../server.ts';
import { EXIT, Failure } from '../failure.ts';
import type { Keeper } from './keeper.ts';
import type { Layout } from './installation.ts';
import type { Program } from './programs.ts';

/** What the supervisor asks of control while it starts the rest. */

const READY_WITHIN_MS = 60_000;
/** Looked at anew after a tenth of the time that it has taken: who waits is not to slow down what it waits for. */
const LOOK_SHARE = 10;
const LOOK_FIRST_MS = 10;
const LOOK_LONGEST_MS = 200;
const EDGES_PER_REGION = 2;

/** Resolves once control answers that it is ready. `given()` throws when waiting has no point any more. */
export async function controlReady(layout: Layout, given: () => void): Promise<void> {
	const deadline = systemClock.monotonic() + READY_WITHIN_MS;
	const where = { url: new URL(`http://127.0.0.1:${layout.port}`), token: '' };
	for (;;) {
		given();
		if (await isReady(where)) return;
		if (systemClock.monotonic() > deadline) {
			throw new Failure('not_ready', EXIT.jibe, `control was not ready within ${READY_WITHIN_MS / 1000} s`, {
				hint: `its log is ${join(layout.data, 'logs', 'control.log')}`,
			});
		}
		await untilNextLook(deadline);
	}
}

function untilNextLook(deadline: MonotonicMs): Promise<void> {
	const waitedMs = READY_WITHIN_MS - (deadline - systemClock.monotonic());
	return pause(Math.min(LOOK_LONGEST_MS, Math.max(LOOK_FIRST_MS, waitedMs / LOOK_SHARE)));
}

async function isReady(where: Server): Promise<boolean> {
	try {
		return (await statusOf(where.url, '/readyz')) === 200;
	} catch (error) {
		if (NOT_YET.has((error as NodeJS.ErrnoException).code ?? '')) return false;
		throw error;
	}
}

/** Not listening yet, ended while it answered, or too busy to answer. */
const NOT_YET = new Set(['ECONNREFUSED', 'ECONNRESET', 'ETIMEDOUT']);

function statusOf(url: URL, path: string): Promise<number> {
	return new Promise((resolve, reject) => {
		const asked = request(new URL(path, url), { agent: false, timeout: 2_000 }, (response) => {
			response.resume();
			resolve(response.statusCode ?? 0);
		});
		asked.once('timeout', () => asked.destroy(Object.assign(new Error('no answer'), { code: 'ETIMEDOUT' })));
		asked.once('error', reject);
		asked.end();
	});
}

/** The admin's token, which control makes in a new directory. */
export function adminServer(layout: Layout): Server {
	const token = readFileSync(join(layout.data, 'admin.token'), 'utf8').trim();
	return { url: new URL(`http://127.0.0.1:${layout.port}`), token };
}

/** A credential with less than this left is replaced before it is used. */
const RENEW_BEFORE_S = 7 * 86_400;

/** True when the program's credential is there, names its regions, and will last. */
export function hasCredential(program: Program): boolean {
	if (program.credentialFile === null) return true;
	if (!existsSync(program.credentialFile)) return false;
	try {
		const { credential } = JSON.parse(readFileSync(program.credentialFile, 'utf8')) as { credential: string };
		const claims = JSON.parse(Buffer.from(credential.split('.')[0] ?? '', 'base64url').toString()) as {
			regions: string[];
			expires: number;
		};
		const known = program.regions.every((name) => claims.regions.includes(name));
		return known && claims.expires - systemClock.now() / 1000 > RENEW_BEFORE_S;
	} catch {
		return false; // cut short by a crash: a new one takes its place
	}
}

/** Asks control for the program's credential and keeps it where the program reads it. */
export async function obtainCredential(layout: Layout, program: Program): Promise<void> {
	if (program.credentialFile === null) return;
	const { role, server, regions, credentialFile } = program;
	const answer = await ask(adminServer(layout), { method: 'POST', path: '/api/v1/credentials', json: { role, server, regions } });
	const draft = `${credentialFile}.${process.pid}`;
	writeFileSync(draft, JSON.stringify(answer), { mode: 0o600 });
	renameSync(draft, credentialFile);
}

/** Resolves once a program that was just started says that it is ready. `given()` throws when waiting has no point any more. */
export async function programReady(keeper: Keeper, given: () => void): Promise<void> {
	const deadline = systemClock.monotonic() + READY_WITHIN_MS;
	while (!keeper.ready) {
		given();
		if (systemClock.monotonic() > deadline) {
			throw new Failure('not_ready', EXIT.jibe, `${keeper.program.name} was not ready within ${READY_WITHIN_MS / 1000} s`, {
				hint: 'the others run as they did; jibe up tries again',
			});
		}
		await untilNextLook(deadline);
	}
}

interface RegionStatus {
	name: string;
	state: string;
	servers: number;
	edges: number;
}

/** Resolves once every region has its agent and both its edges. `waiting` hears of those that have not. */
export async function regionsReady(layout: Layout, given: () => void, waiting: (regions: string[]) => void): Promise<void> {
	const deadline = systemClock.monotonic() + READY_WITHIN_MS;
	for (;;) {
		given();
		const { regions } = (await ask(adminServer(layout), { path: '/api/v1/regions' })) as { regions: RegionStatus[] };
		const whole = new Set(regions.filter(isWhole).map((region) => region.name));
		const missing = layout.regions.filter((name) => !whole.has(name));
		if (missing.length === 0) return;
		waiting(missing);
		if (systemClock.monotonic() > deadline) {
			throw new Failure('not_ready', EXIT.jibe, `not connected within ${READY_WITHIN_MS / 1000} s: ${missing.join(', ')}`, {
				hint: `the programs' logs are in ${join(layout.data, 'logs')}`,
			});
		}
		await untilNextLook(deadline);
	}
}

function isWhole(region: RegionStatus): boolean {
	return region.state === 'connected' && region.servers >= 1 && region.edges >= EDGES_PER_REGION;
}

/** Where other machines reach control; with the fingerprint of its CA, unless it has a public certificate. */
export async function loginAddress(layout: Layout): Promise<string | null> {
	const { addresses, fingerprint } = (await ask(adminServer(layout), { path: '/api/v1/control' })) as ControlAnswer;
	const [first] = addresses;
	if (first === undefined) return null;
	return layout.listen?.certFile === undefined ? `${first}#${fingerprint}` : first;
}
