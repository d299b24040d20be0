import { existsSync, readFileSync, readdirSync, realpathSync, statSync } from 'node:fs';
import { homedir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import type { Mount } from './sandbox/sandbox.ts';

/**
 * The tools of this machine that steps find beside those below /usr: the Node that Jibe itself runs on, so that a laptop's build
 * and a builder's are made by the same one, and those that a person installed for this builder's user.
 */
export interface Toolchains {
	mounts: Mount[];
	/** Directories, as commands see them, that come first on PATH. */
	path: string[];
	/** `node 24.21.0, cargo /opt/jibe/rust/bin/cargo 12 1700000000`: changes whenever one of these tools does. */
	stamp(tools: readonly string[]): string;
	/** Where a tool is found on this machine; null: there is none. */
	find(tool: string): string | null;
}

const AT = '/opt/jibe';
const SYSTEM_PATH = ['/usr/local/sbin', '/usr/local/bin', '/usr/sbin', '/usr/bin', '/usr/local/go/bin'];

export function findToolchains(): Toolchains {
	const found: { from: string; to: string; bin: string }[] = [];
	const node = realpathSync(process.execPath);
	// Its directory alone: what else a person keeps beside it is no part of builds.
	if (!SYSTEM_PATH.includes(dirname(node))) found.push({ from: node, to: `${AT}/node/bin/${basename(node)}`, bin: dirname(node) });
	const rust = rustToolchain();
	if (rust !== null) found.push({ from: rust, to: `${AT}/rust`, bin: join(rust, 'bin') });
	const npm = npmBeside(node);
	if (npm !== null) found.push({ from: npm, to: `${AT}/node/lib/node_modules/npm`, bin: join(npm, 'bin') });
	const places = [...found.map(({ bin }) => bin), ...SYSTEM_PATH];
	const find = (tool: string) => places.map((place) => join(place, tool)).find((file) => existsSync(file)) ?? null;
	const path = [
		...found.map(({ to, from }) => (statSync(from).isDirectory() ? join(to, 'bin') : dirname(to))),
		...(existsSync('/usr/local/go/bin') ? ['/usr/local/go/bin'] : []),
	];
	return { mounts: found.map(({ from, to }) => ({ from, to })), path, find, stamp: (tools) => stampOf(tools, find) };
}

function stampOf(tools: readonly string[], find: (tool: string) => string | null): string {
	const files = tools.map((tool) => {
		const file = find(tool);
		const stat = file === null ? null : statSync(realpathSync(file));
		return stat === null ? `no ${tool}` : `${tool} ${stat.size} ${Math.floor(stat.mtimeMs)}`;
	});
	return [`node ${process.versions.node}`, ...files].join(', ');
}

/** The default one of rustup: its shims in ~/.cargo/bin would want a home of their own. */
function rustToolchain(): string | null {
	const home = process.env['RUSTUP_HOME'] ?? join(homedir(), '.rustup');
	const settings = readText(join(home, 'settings.toml'));
	const named = /^default_toolchain = "([^"/]+)"$/m.exec(settings ?? '')?.[1];
	const all = join(home, 'toolchains');
	const names = existsSync(all) ? readdirSync(all).sort() : [];
	const chosen = names.find((name) => name === named) ?? names.find((name) => name.startsWith('stable')) ?? names[0];
	const directory = chosen === undefined ? null : join(all, chosen);
	return directory !== null && existsSync(join(directory, 'bin', 'cargo')) ? realpathSync(directory) : null;
}

/** Node's own distribution has npm beside it. */
function npmBeside(node: string): string | null {
	const directory = join(dirname(node), '..', 'lib', 'node_modules', 'npm');
	return !directory.startsWith('/usr/') && existsSync(join(directory, 'bin', 'npm')) ? realpathSync(directory) : null;
}

function readText(file: string): string | null {
	try {
		return readFileSync(file, 'utf8');
	} catch (error) {
		if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
		throw error;
	}
}
