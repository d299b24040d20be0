import { closeSync, readFileSync } from 'node:fs';
import { createServer as createControl, Server as NetServer, type Socket } from 'node:net';
import { enableCompileCache, flushCompileCache } from 'node:module';
import { join } from 'node:path';
import { performance } from 'node:perf_hooks';
import { pathToFileURL } from 'node:url';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { readModulePack } from '#store/module-pack.ts';
import { receiveLines, sendLine } from './lines.ts';
import { findApp, type FetchApp } from './runtimes/fetch/app.ts';
import { exercise } from './runtimes/fetch/exercise.ts';
import { hookModules, type ModuleSource } from './runtimes/fetch/hooks.ts';
import { BIRTH_DESCRIPTOR, type Birth, type InstancePhase, type Load, type Order, type Report } from './runtimes/fetch/messages.ts';
import { stampOutput } from './runtimes/fetch/output.ts';
import { createServing, type Serving } from './runtimes/fetch/serving.ts';
import { mapStacks } from './runtimes/fetch/stacks.ts';
import { scrubber } from '#log/scrub.ts';

/**
 * Twenty requests on, a process that was idle for seconds answers its next one in 0.6 ms of processor time instead of 1
 * (measured, with the caches of its core gone cold): what runs often V8 compiles, what ran once it interprets.
 */
const ROUNDS = 6;

/**
 * One instance of a `fetch` app: a program of its own, with no dependency at run time, under the app's uid. It is born
 * idle, warms itself up, and waits on its control socket for an agent (any agent: it outlives the one that started it).
 */
async function main(): Promise<void> {
	const birth = takeBirth();
	stampOutput(scrubber(birth.secrets.map((name) => ({ name, value: birth.env[name]! }))));
	if (birth.compileCache) enableCompileCache(birth.compileCache);
	Object.assign(process.env, birth.env);
	const serving = createServing(process.env);
	const modules = hookModules(birth.vendor);
	const packages = await preimport(birth);
	await listen(serving.server, join(birth.sockets, 'http'));
	await exercise(serving.use, { socket: join(birth.sockets, 'http'), packages, rounds: birth.hurried ? 1 : ROUNDS });
	const life = createLife(serving, modules);
	await listen(createControl(life.attend), join(birth.sockets, 'control'));
	if (!birth.hurried) flushCompileCache();
}

function takeBirth(): Birth {
	for (const name of ['SHLVL', '_']) delete process.env[name];
	const text = readFileSync(BIRTH_DESCRIPTOR, 'utf8');
	closeSync(BIRTH_DESCRIPTOR);
	return JSON.parse(text) as Birth;
}

/** Packages that the last release imported, under the URLs that the next will import them by. */
async function preimport(birth: Birth): Promise<Map<string, unknown>> {
	const packages = new Map<string, unknown>();
	for (const path of birth.vendor === null ? [] : birth.preimport) {
		try {
			packages.set(path, await import(pathToFileURL(join(birth.vendor!, path)).href));
		} catch (error) {
			// The release that imports it will fail with this error itself, or catch it.
			console.error(`could not import ${path} ahead of time:`, error);
		}
	}
	return packages;
}

function listen(server: NetServer, path: string): Promise<void> {
	return new Promise((resolve, reject) => server.once('error', reject).listen(path, resolve));
}

interface Life {
	app: FetchApp | null;
	phase: InstancePhase | 'idle';
	/** The last thing said; repeated to an agent that connects later. */
	said: Report;
	agents: Set<Socket>;
}

function createLife(serving: Serving, modules: ModuleSource): { attend: (socket: Socket) => void } {
	const life: Life = { app: null, phase: 'idle', said: { type: 'idle' }, agents: new Set() };
	const say = (said: Report) => {
		life.said = said;
		for (const agent of life.agents) sendLine(agent, said);
	};
	const obey = async (order: Order): Promise<void> => {
		switch (order.type) {
			case 'load':
				return say(await load(order, life, serving, modules));
			case 'state':
				serving.resume();
				await enter(life, order.state);
				if (order.keepCompiled) flushCompileCache();
				return order.rests ? say(rest()) : undefined;
			case 'drain': {
				await enter(life, 'draining');
				const cut = await serving.drain(order);
				return cut === null ? undefined : say({ type: 'drained', id: order.id, cut });
			}
		}
	};
	return {
		attend(socket) {
			life.agents.add(socket);
			socket.on('error', () => {}); // `close` follows
			socket.on('close', () => life.agents.delete(socket));
			sendLine(socket, life.said);
			receiveLines(socket, (order) => void obey(order as unknown as Order));
		},
	};
}

/** Gives back what memory it can: a warm instance is frozen for minutes or hours. */
function rest(): Report {
	setFlagsFromString('--expose-gc');
	(runInNewContext('gc') as () => void)();
	return { type: 'rested' };
}

async function load(order: Load, life: Life, serving: Serving, modules: ModuleSource): Promise<Report> {
	const began = performance.now();
	const listening = watchListening();
	try {
		Object.assign(process.env, order.env);
		process.chdir(order.root);
		const pack = readModulePack(order.pack);
		mapStacks({ url: `${pathToFileURL(order.root).href}/`, path: order.root, maps: order.maps });
		modules.use(pack, order.root);
		const module = (await import(modules.url(pack.index.entry))) as Record<string, unknown>;
		const app = findApp(module);
		if (!app) return noFetch(pack.index.entry, Object.keys(module), listening.seen());
		life.app = app;
		life.phase = 'prepared';
		serving.use(app);
		return { type: 'loaded', importMs: performance.now() - began, upgrades: app.upgrade !== undefined };
	} catch (error) {
		return { type: 'failed', reason: 'app_throws', detail: describe(error) };
	} finally {
		listening.stop();
	}
}

function noFetch(entry: string, exported: string[], listened: boolean): Report {
	if (listened) {
		const hint = 'Export default { fetch }, or an Express app, instead, and let Jibe listen.';
		return { type: 'failed', reason: 'app_listens', detail: `${entry} listens on a port itself and exports no fetch. ${hint}` };
	}
	const has = exported.length === 0 ? 'exports nothing' : `exports ${exported.join(', ')}`;
	const detail = `${entry} ${has}; a fetch app's entry has a default export with fetch(request, env, ctx), or is such a function.`;
	return { type: 'failed', reason: 'no_fetch', detail };
}

/** Notes whether the app opens a listening socket while its modules are evaluated. */
function watchListening(): { seen: () => boolean; stop: () => void } {
	let seen = false;
	const prototype = NetServer.prototype as unknown as { listen: (this: NetServer, ...args: unknown[]) => NetServer };
	const original = prototype.listen;
	prototype.listen = function (...args) {
		seen = true;
		return Reflect.apply(original, this, args);
	};
	return { seen: () => seen, stop: () => void (prototype.listen = original) };
}

/** Tells the app what it is now: an event on `process`, and the life-cycle exports of whoever has them. */
async function enter(life: Life, phase: InstancePhase): Promise<void> {
	if (life.phase === phase) return;
	const before = life.phase;
	life.phase = phase;
	// Node's types know the events of `process` itself only.
	(process as NodeJS.EventEmitter).emit('jibe:state', phase);
	try {
		if (phase === 'serving') await life.app?.activate?.();
		else if (before === 'serving') await life.app?.deactivate?.();
	} catch (error) {
		console.error(`${phase === 'serving' ? 'activate' : 'deactivate'}() failed:`, error);
	}
}

const MAX_DETAIL_CHARACTERS = 4000;

function describe(error: unknown): string {
	const text = error instanceof Error ? (error.stack ?? String(error)) : `the entry threw ${String(error)}`;
	return text.slice(0, MAX_DETAIL_CHARACTERS);
}

await main();
