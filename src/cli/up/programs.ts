import { globSync, readFileSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { canonicalJson, sha256 } from '#digest/digest.ts';
import { runDirectory } from '#process/directory.ts';
import type { Role } from '#wire/region.ts';
import type { Target } from './frozen.ts';
import { DEFAULT_BUILDERS, type Layout } from './installation.ts';

/** A program of this installation, as it is to be started. */
export interface Program {
	role: 'control' | Role;
	/** Unique in the installation: its pid file's and log's name. */
	name: string;
	/** Shown in `ps` between the script and the data directory. */
	label: string | null;
	settings: Record<string, unknown>;
	/** Regions it serves; none for control. */
	regions: string[];
	credentialFile: string | null;
	server: string;
}

/** The name under which this machine's own agents and edges are known. */
const LOCAL_SERVER = 'local';
const EDGES_PER_REGION = 2;

export function controlProgram(layout: Layout): Program {
	const regions = layout.regions.map((name, index) => ({ name, edgePort: layout.edgePort + index }));
	const databaseUrl = process.env['DATABASE_URL'];
	const { data, port, store, listen } = layout;
	const settings = {
		data,
		port,
		regions,
		...(databaseUrl ? { databaseUrl } : {}),
		...(store ? { store } : {}),
		...(listen ? { listen } : {}),
	};
	return { role: 'control', name: 'control', label: null, settings, regions: [], credentialFile: null, server: LOCAL_SERVER };
}

/** Depots, agents and edges: one set for all regions, or one each. */
export function regionPrograms(layout: Layout): Program[] {
	if (layout.regions.length === 0) return [];
	const ports = new Map(layout.regions.map((name, index) => [name, layout.edgePort + index]));
	const groups = layout.separate ? layout.regions.map((name) => [name]) : [layout.regions];
	return groups.flatMap((regions) => {
		const suffix = layout.separate ? `-${regions[0]}` : '';
		const server = `${LOCAL_SERVER}${suffix}`;
		const depotSocket = join(runDirectory(layout.data), `depot${suffix}.sock`);
		const program = (role: Role, name: string, more: Record<string, unknown>): Program => {
			const credentialFile = join(layout.data, 'credentials', `${role}${suffix}.json`);
			const settings = { data: layout.data, name, server, depotSocket, credentialFile, regions, ...more };
			return { role, name, label: name === role ? null : name, settings, regions, credentialFile, server };
		};
		const edgeRegions = regions.map((name) => ({ name, port: ports.get(name) }));
		return [
			program('depot', `depot${suffix}`, { upstreams: [`http://127.0.0.1:${layout.port}`] }),
			program('agent', `agent${suffix}`, {}),
			...Array.from({ length: EDGES_PER_REGION }, (_, n) => program('edge', `edge${suffix}-${n}`, { regions: edgeRegions })),
		];
	});
}

/** Of this machine's own pool: `builder-0` to `builder-<max - 1>`. Those beyond `min` end when there was nothing to build for a while. */
export function builderPrograms({ data, port, builders = DEFAULT_BUILDERS }: Layout): Program[] {
	return Array.from({ length: builders.max }, (_, n): Program => {
		const name = `builder-${n}`;
		const credentialFile = join(data, 'credentials', 'builder.json');
		const upstreams = [`http://127.0.0.1:${port}`];
		const idle = n < builders.min ? {} : { idleMs: BUILDER_IDLE_MS };
		const { allowUnsandboxed } = builders;
		const settings = { data, name, server: LOCAL_SERVER, upstreams, credentialFile, allowUnsandboxed, ...idle };
		return { role: 'builder', name, label: name, settings, regions: [], credentialFile, server: LOCAL_SERVER };
	});
}

/** People push again soon after they have pushed. */
const BUILDER_IDLE_MS = 5 * 60_000;

/** What a program that runs must have been started with to be left as it is: its settings, and what its file holds. */
export function programDigest(program: Program): string {
	return sha256(canonicalJson({ settings: program.settings, script: scriptOf(program.role), bundle: bundleDigest(program.role) }));
}

/** What a program is made of beside its bundle, below `dist/`. */
const MADE_OF: Readonly<Partial<Record<Program['role'], string>>> = { agent: 'instance.js', control: '{sql,dashboard}/**' };

/** Another version may have come to the same place; run from source, a program is as old as it is. */
function bundleDigest(role: Program['role']): string | null {
	const [file = ''] = scriptOf(role);
	if (!file.endsWith('.js')) return null;
	const others = globSync(MADE_OF[role] ?? [], { cwd: dirname(file) }).map((name) => join(dirname(file), name));
	const files = [file, ...others.filter((name) => statSync(name).isFile()).sort()];
	return sha256(files.map((name) => sha256(readFileSync(name))).join());
}

/** Node's arguments: in the package the program's bundle stands beside this one, in the repository its source is run. */
export function scriptOf(role: Program['role'] | 'up'): string[] {
	const here = import.meta.dirname;
	if (!import.meta.filename.endsWith('.ts')) return [join(here, `${role}.js`)];
	return [join(here, '..', '..', '..', 'scripts', 'program.ts'), role];
}

/** Without an answer for longer than this a program is frozen. A region's traffic hangs on its edges alone. */
const FROZEN_AFTER_MS = { edge: 1_000, control: 10_000, depot: 20_000, agent: 20_000, builder: 5_000 } as const;

/** How a program is asked whether it is alive. */
export function healthOf(program: Program, layout: Layout): { target: Target | null; limitMs: number } {
	const limitMs = FROZEN_AFTER_MS[program.role];
	switch (program.role) {
		case 'edge':
			return { limitMs, target: { greeting: join(runDirectory(layout.data), `${program.name}.alive.sock`) } };
		case 'control':
			return { limitMs, target: { http: { port: layout.port, path: '/healthz' } } };
		case 'depot':
			return { limitMs, target: { httpSocket: String(program.settings['depotSocket']) } };
		case 'agent':
		case 'builder':
			return { limitMs, target: null };
	}
}

/**
 * Freed memory goes back to the system: glibc would keep what a large upload once took (30 MiB in control, measured),
 * and an arena for each thread.
 */
const THRIFTY_MALLOC = { MALLOC_ARENA_MAX: '2', MALLOC_MMAP_THRESHOLD_: '131072', MALLOC_TRIM_THRESHOLD_: '131072' };
/**
 * V8's young generation, in MiB: small for programs whose messages are few and small; edges keep Node's default. Control
 * would collect three times as long with 4, and with the default takes 100 MiB more for it once 10,000 depots have linked.
 */
const YOUNG_GENERATION: Readonly<Record<string, number>> = { depot: 4, agent: 4, up: 4, control: 16 };

export function nodeOptions(role: string): string[] {
	const size = YOUNG_GENERATION[role];
	return size === undefined ? [] : [`--max-semi-space-size=${size}`];
}

const PASSED_ON =
	/^(PATH|HOME|USER|LOGNAME|SHELL|LANG|LC_.*|TZ|TMPDIR|XDG_.*|SUDO_[UG]ID|NODE_EXTRA_CA_CERTS|JIBE_.*|DATABASE_URL|PG[A-Z]+|AWS_[A-Z0-9_]+)$/;
/** Proxies and registries: what builds install goes through them. */
const WAY_OUT = /^((https?|all|no)_proxy|npm_config_registry|goproxy|gonosumdb|gonoproxy|pip_index_url|pip_extra_index_url|rustup_home)$/i;
const KEPT_BACK: ReadonlySet<string> = new Set(['JIBE_TOKEN', 'JIBE_SERVER', 'JIBE_PROGRAM', 'JIBE_DATA']);

/** The environment of a program: not what a shell happens to have. Settings go here, so that `ps` shows none of them. */
export function programEnvironment(data: string, role: string, settings: object): Record<string, string> {
	const env: Record<string, string> = {};
	for (const [name, value] of Object.entries(process.env)) {
		if (value === undefined || !(PASSED_ON.test(name) || WAY_OUT.test(name)) || KEPT_BACK.has(name)) continue;
		if (/^(DATABASE_URL|PG|AWS_|JIBE_MASTER_KEY)/.test(name) && role !== 'control' && role !== 'up') continue;
		if (WAY_OUT.test(name) && role !== 'builder' && role !== 'up') continue;
		env[name] = value;
	}
	return { ...env, ...THRIFTY_MALLOC, NODE_COMPILE_CACHE: join(data, 'cache', 'v8'), JIBE_PROGRAM: JSON.stringify(settings) };
}
