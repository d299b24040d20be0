import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { findPeers, run, type Peer } from './build-peers.ts';
import { editHandlers, generateApi, type ApiSize } from './generate.ts';
import { percentile, type Row } from './row.ts';

/** `jibe build --json` from a cold shell: nothing changed, three handlers edited, nothing remembered. */

const ROUNDS = 15;
const COLD_ROUNDS = 7;
const EDITS = 3;
const BIN = join(import.meta.dirname, '..', 'bin', 'jibe');

interface Project {
	dir: string;
	/** Everything Jibe remembers; the compile cache of its own code lies beside it and stays. */
	cache: string;
	nextSeed: number;
}

export async function bench(): Promise<Row[]> {
	const place = mkdtempSync(join(tmpdir(), 'jibe-bench-build-'));
	try {
		return [...small(place), ...large(place)];
	} finally {
		rmSync(place, { recursive: true, force: true });
	}
}

function small(place: string): Row[] {
	const project = generate(place, 217, 'api');
	// Peers have a copy of their own: their settings and outputs are no files of the app.
	const theirs = generate(place, 217, 'api-of-peers');
	const peers = findPeers(theirs.dir, join(place, 'peers'));
	const jibe: Peer = { name: 'jibe', build: () => void build(project, null), forget: () => forget(project) };
	const noop = inTurns([jibe, ...peers], ROUNDS, () => {});
	const three = inTurns([jibe, ...peers], ROUNDS, (peer) => edit(peer === jibe ? project : theirs));
	const cold = inTurns([jibe, ...peers], COLD_ROUNDS, (peer) => peer.forget());
	check(project, 217);
	return [row('build-noop', noop, 60, 40), row('build-3', three, 80, 55), row('build-cold', cold, 400, 200)];
}

function large(place: string): Row[] {
	const project = generate(place, 10_000, 'api-10k');
	const jibe: Peer = { name: 'jibe', build: () => void build(project, null), forget: () => forget(project) };
	const noop = inTurns([jibe], ROUNDS, () => {});
	const three = inTurns([jibe], ROUNDS, () => edit(project));
	check(project, 10_000);
	return [row('build10k-noop', noop, 200, 125), row('build10k-3', three, 300, 190)];
}

function generate(place: string, modules: ApiSize, name: string): Project {
	const dir = join(place, name);
	generateApi(dir, { modules });
	return { dir, cache: join(place, `${name}-cache`), nextSeed: 1 };
}

function edit(project: Project): void {
	editHandlers(project.dir, EDITS, project.nextSeed++);
}

function forget(project: Project): void {
	rmSync(join(project.cache, 'jibe', 'build'), { recursive: true, force: true });
}

/** `expected`: how many modules must have been compiled, or null where it does not matter. */
function build(project: Project, expected: number | null): { compiled: number; cached: number } {
	const out = run(BIN, ['build', '--json'], project.dir, { ...process.env, XDG_CACHE_HOME: project.cache });
	const { modules } = JSON.parse(out.trimEnd().split('\n').at(-1)!) as { modules: { compiled: number; cached: number } };
	if (expected !== null && modules.compiled !== expected)
		throw new Error(`${modules.compiled} modules were compiled instead of ${expected}`);
	return modules;
}

/** The figures are only worth something if the work was done: no more and no less than what changed is compiled. */
function check(project: Project, modules: number): void {
	build(project, 0);
	edit(project);
	const { cached } = build(project, EDITS);
	if (cached !== modules - EDITS) throw new Error(`${cached} modules came from the cache instead of ${modules - EDITS}`);
}

/** Peers take turns, so that a busy moment of the machine hits them all. One round is not counted. */
function inTurns(peers: readonly Peer[], rounds: number, before: (peer: Peer) => void): Map<string, number[]> {
	const times = new Map(peers.map((peer): [string, number[]] => [peer.name, []]));
	for (let round = 0; round <= rounds; round++) {
		for (const peer of peers) {
			before(peer);
			const started = performance.now();
			peer.build();
			if (round > 0) times.get(peer.name)!.push(performance.now() - started);
		}
	}
	return times;
}

function row(name: string, times: Map<string, number[]>, bar: number, goal: number): Row {
	const { jibe = [], ...others } = Object.fromEntries(times);
	const peers = Object.fromEntries(Object.entries(others).map(([peer, each]) => [peer, percentile(each, 0.5)]));
	return { row: name, value: percentile(jibe, 0.5), unit: 'ms', bar, goal, ...(Object.keys(peers).length > 0 ? { peers } : {}) };
}
