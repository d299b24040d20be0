import { existsSync, globSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { sha256, canonicalJson, type Digest } from '#digest/digest.ts';
import { HOME_PATH, SOURCE_PATH } from './sandbox/sandbox.ts';

/**
 * How the dependencies of a source are installed, told by its lockfiles: what to run, what decides the outcome, and where it
 * appears. What appears below the source is laid over it; what appears in the home is shown to steps read-only.
 */
export interface Install {
	manager: 'npm' | 'pnpm' | 'yarn' | 'pip' | 'go' | 'cargo';
	/** Directory of the lockfile inside the source, '' for its root. */
	at: string;
	/** Files that decide what is installed, relative to the source. */
	files: string[];
	/** A part of what is installed is made by scripts of the source itself, so that all of it decides. */
	scripted: boolean;
	command: string;
	env: Record<string, string>;
	/** Globs below the source. */
	outputs: string[];
	/** A directory of the home, which is kept whole. */
	home: string | null;
	/** What the manager has fetched before: of any version of the lockfile. */
	downloads: string;
	/** What has to be on the machine. */
	tool: string;
	/** Of steps, so that they find it. */
	use: { kind: 'node' | 'other'; env: Record<string, string>; path: string[] };
}

const LOCKFILES: readonly (readonly [string, Install['manager']])[] = [
	['package-lock.json', 'npm'],
	['npm-shrinkwrap.json', 'npm'],
	['pnpm-lock.yaml', 'pnpm'],
	['yarn.lock', 'yarn'],
	['go.sum', 'go'],
	['Cargo.lock', 'cargo'],
	['requirements.txt', 'pip'],
];
const NODE_MANAGERS: ReadonlySet<string> = new Set(['npm', 'pnpm', 'yarn']);
const NODE_SETTINGS = ['.npmrc', '.yarnrc', '.yarnrc.yml', '.pnpmfile.cjs', 'pnpm-workspace.yaml', '.node-version', '.nvmrc'];
/** In a monorepo's tree; beyond, something else is wrong. */
const MAX_MANIFESTS = 5_000;
const VENV = '.venv';

/** Of each kind the nearest lockfile at the app or above it. */
export function findInstalls(source: string, directory: string): Install[] {
	const found = new Map<string, Install>();
	for (const at of upwards(directory)) {
		for (const [name, manager] of LOCKFILES) {
			const kind = NODE_MANAGERS.has(manager) ? 'node' : manager;
			if (!found.has(kind) && existsSync(join(source, at, name))) found.set(kind, installOf(manager, source, at, name));
		}
	}
	return [...found.values()];
}

function upwards(directory: string): string[] {
	const all: string[] = [];
	for (let at = directory === '' ? '.' : directory; ; at = dirname(at)) {
		all.push(at === '.' ? '' : at);
		if (at === '.') return all;
	}
}

/** What compilers keep from one build to the next, in the home of whoever runs them. Whether it is good they judge by content. */
export function compilerCaches(source: string, directory: string): { name: string; at: string }[] {
	const isGo = upwards(directory).some((at) => existsSync(join(source, at, 'go.mod')));
	return isGo ? [{ name: 'go-build', at: `${HOME_PATH}/.cache/go-build` }] : [];
}

/** Everything that decides what is installed. */
export function installKey(install: Install, source: string, toolchain: string): Digest {
	const contents = install.files.map((path) => [path, sha256(readFileSync(join(source, path)))]);
	const { manager, at, command, env } = install;
	return sha256(canonicalJson({ format: FORMAT, manager, at, command, env, contents, toolchain }));
}

/** Raised when the same key is to give another tree. */
const FORMAT = 1;

function installOf(manager: Install['manager'], source: string, at: string, lockfile: string): Install {
	const below = (...names: string[]) =>
		names.map((name) => (at === '' ? name : `${at}/${name}`)).filter((path) => existsSync(join(source, path)));
	if (manager === 'npm' || manager === 'pnpm' || manager === 'yarn') {
		const isBerry = manager === 'yarn' && BERRY.test(readFileSync(join(source, at, lockfile), 'utf8'));
		return nodeInstall(manager, isBerry ? NODE_COMMANDS.berry : NODE_COMMANDS[manager], source, at, below(lockfile, ...NODE_SETTINGS));
	}
	const common = { manager, tool: manager === 'pip' ? 'python3' : manager, at, scripted: false, outputs: [] as string[] };
	switch (manager) {
		case 'go': {
			const modules = `${HOME_PATH}/go/pkg/mod`;
			return {
				...common,
				files: below('go.mod', lockfile, 'go.work', 'go.work.sum'),
				command: 'go mod download',
				env: { GOFLAGS: '-modcacherw' },
				home: modules,
				downloads: `${HOME_PATH}/.cache/go-downloads`,
				use: { kind: 'other', env: { GOMODCACHE: modules, GOFLAGS: '-mod=readonly', GOPROXY: 'off' }, path: [] },
			};
		}
		case 'cargo': {
			const registry = `${HOME_PATH}/.cargo/registry`;
			return {
				...common,
				files: below('Cargo.toml', lockfile, '.cargo/config.toml', 'rust-toolchain.toml'),
				command: 'cargo fetch --locked',
				env: {},
				home: registry,
				downloads: `${HOME_PATH}/.cache/cargo-downloads`,
				use: { kind: 'other', env: { CARGO_NET_OFFLINE: 'true' }, path: [] },
			};
		}
		default: {
			const venv = join(SOURCE_PATH, at, VENV);
			return {
				...common,
				files: below(lockfile, 'constraints.txt', '.python-version'),
				command: `python3 -m venv --copies ${VENV} && ${VENV}/bin/pip install --disable-pip-version-check --no-input --no-compile -r requirements.txt`,
				env: {},
				outputs: [`${at === '' ? '' : `${at}/`}${VENV}/**`],
				home: null,
				downloads: `${HOME_PATH}/.cache/pip`,
				use: { kind: 'other', env: { VIRTUAL_ENV: venv }, path: [`${venv}/bin`] },
			};
		}
	}
}

/** A lockfile of yarn 2 and later. */
const BERRY = /^__metadata:/m;

interface NodeCommand {
	command: string;
	downloads: string;
	env: Record<string, string>;
}

const NODE_COMMANDS: Record<'npm' | 'pnpm' | 'yarn' | 'berry', NodeCommand> = {
	npm: {
		command: 'npm ci --no-audit --no-fund --no-update-notifier --prefer-offline',
		downloads: `${HOME_PATH}/.npm`,
		env: {},
	},
	pnpm: {
		command: `pnpm install --frozen-lockfile --prefer-offline --store-dir ${HOME_PATH}/.pnpm-store`,
		downloads: `${HOME_PATH}/.pnpm-store`,
		env: {},
	},
	yarn: {
		command: `yarn install --frozen-lockfile --non-interactive --cache-folder ${HOME_PATH}/.yarn-cache`,
		downloads: `${HOME_PATH}/.yarn-cache`,
		env: {},
	},
	berry: {
		command: 'yarn install --immutable',
		downloads: `${HOME_PATH}/.yarn/berry`,
		env: {
			YARN_GLOBAL_FOLDER: `${HOME_PATH}/.yarn/berry`,
			YARN_NODE_LINKER: 'node-modules',
			YARN_ENABLE_TELEMETRY: 'false',
			YARN_ENABLE_GLOBAL_CACHE: 'true',
		},
	},
};

function nodeInstall(manager: 'npm' | 'pnpm' | 'yarn', command: NodeCommand, source: string, at: string, settings: string[]): Install {
	const root = join(source, at);
	const manifests = globSync('**/package.json', { cwd: root, exclude: (path) => /(^|\/)(node_modules|\.git)$/.test(path) })
		.slice(0, MAX_MANIFESTS)
		.concat(globSync('{patches,.yarn/patches}/**/*.patch', { cwd: root }))
		.map((path) => relative('', at === '' ? path : `${at}/${path}`))
		.sort();
	const prefix = at === '' ? '' : `${at}/`;
	return {
		manager,
		tool: manager,
		at,
		files: [...settings, ...manifests],
		scripted: manifests.some((path) => hasScripts(join(source, path))),
		...command,
		outputs: [`${prefix}node_modules/**`, `${prefix}**/node_modules/**`],
		home: null,
		use: { kind: 'node', env: {}, path: [join(SOURCE_PATH, at, 'node_modules', '.bin')] },
	};
}

const OWN_SCRIPTS = ['preinstall', 'install', 'postinstall', 'prepublish', 'preprepare', 'prepare', 'postprepare'];

function hasScripts(manifest: string): boolean {
	if (!manifest.endsWith('package.json')) return false;
	try {
		const { scripts = {} } = JSON.parse(readFileSync(manifest, 'utf8')) as { scripts?: Record<string, unknown> };
		return OWN_SCRIPTS.some((name) => name in scripts);
	} catch {
		return false; // the manager says better what is wrong with it
	}
}
