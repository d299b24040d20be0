import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { BuildError } from './build-error.ts';
import { checkInstalled, installedAt, outOfDate, type Closure, type LockedPackage, type Lockfile } from './closure.ts';

/** pnpm-lock.yaml, version 9: `importers` and `snapshots`. */

const INSTALL = 'pnpm install --frozen-lockfile';

export function pnpmClosure(lock: Lockfile, wanted: Record<string, string>): Closure {
	const yaml = parseYaml(readFileSync(lock.path, 'utf8'));
	const version = text(yaml['lockfileVersion']);
	if (!version.startsWith('9')) {
		throw new BuildError('bad_lockfile', `${lock.path} has lockfileVersion ${version}; 9 is needed`, {
			hint: 'Run `pnpm install` with pnpm 9 or later, and commit the lockfile.',
		});
	}
	const importers = section(yaml['importers']);
	const snapshots = section(yaml['snapshots']);
	const packages = new Map<string, LockedPackage>();
	const workspaces = new Map<string, { name: string; dir: string }>();

	const add = (name: string, reference: string, from: string, optional: boolean): string | null => {
		if (reference.startsWith('link:')) {
			const dir = join(from, reference.slice('link:'.length));
			if (!workspaces.has(dir)) {
				workspaces.set(dir, { name, dir });
				addImporter(relativeTo(lock.root, dir), dir, null);
			}
			return null;
		}
		const id = snapshots[`${name}@${reference}`] !== undefined ? `${name}@${reference}` : reference;
		if (packages.has(id)) return id;
		const snapshot = section(snapshots[id]);
		const dir = installedAt(join(from, 'node_modules', name));
		if (dir === null) {
			if (optional) return null;
			throw new BuildError('not_installed', `${id} is in the lockfile but not installed`, {
				hint: `Run \`${INSTALL}\`, then deploy again.`,
			});
		}
		const realName = id.slice(0, id.indexOf('@', 1));
		const locked: LockedPackage = { id, name: realName, version: versionOf(id), dir, at: '', dependencies: new Map(), direct: null };
		checkInstalled(locked, INSTALL);
		packages.set(id, locked);
		// Packages lie beside what they depend on: .pnpm/<id>/node_modules/{<name>,<its dependencies>}.
		const beside = dir.slice(0, dir.length - realName.length - '/node_modules/'.length);
		for (const [key, missing] of [
			['dependencies', false],
			['optionalDependencies', true],
		] as const) {
			for (const [dependency, at] of Object.entries(section(snapshot[key]))) {
				const target = add(dependency, text(at), beside, missing);
				if (target !== null) locked.dependencies.set(dependency, target);
			}
		}
		return id;
	};

	const addImporter = (key: string, dir: string, mark: ((id: string, name: string) => void) | null): void => {
		const importer = section(importers[key === '' ? '.' : key]);
		for (const [group, optional] of [
			['dependencies', false],
			['optionalDependencies', true],
		] as const) {
			for (const [name, entry] of Object.entries(section(importer[group]))) {
				const id = add(name, text(section(entry)['version']), dir, optional);
				if (id !== null) mark?.(id, name);
			}
		}
	};

	const app = section(importers[lock.importer === '' ? '.' : lock.importer]);
	for (const [name, range] of Object.entries(wanted)) {
		const known = section({ ...section(app['dependencies']), ...section(app['optionalDependencies']) }[name]);
		if (known['specifier'] !== range) throw outOfDate(lock, `${name}@${range}`, 'pnpm install');
	}
	addImporter(lock.importer, join(lock.root, lock.importer), (id, name) => (packages.get(id)!.direct = name));
	return { install: INSTALL, packages: [...packages.values()], workspaces: [...workspaces.values()], hoisted: false };
}

function relativeTo(root: string, dir: string): string {
	return dir === root ? '' : dir.slice(root.length + 1);
}

/** `1.2.3` of `name@1.2.3(peer@4)`. */
function versionOf(id: string): string {
	const version = id.slice(id.indexOf('@', 1) + 1);
	return version.includes('(') ? version.slice(0, version.indexOf('(')) : version;
}

type Yaml = { [key: string]: Yaml | string };

function section(value: Yaml | string | undefined): Yaml {
	return typeof value === 'object' ? value : {};
}

function text(value: Yaml | string | undefined): string {
	return typeof value === 'string' ? value : '';
}

/** The part of YAML that pnpm writes: nested mappings of plain or quoted scalars. Lists and flow mappings are kept as text. */
export function parseYaml(source: string): Yaml {
	const root: Yaml = {};
	const stack: { indent: number; at: Yaml }[] = [{ indent: -1, at: root }];
	for (const line of source.split('\n')) {
		const match = /^( *)('(?:[^']|'')*'|"[^"]*"|[^\s#'"-][^:]*|[^\s#'"-].*?):(?: +(.*))?$/.exec(line.replace(/\r$/, ''));
		if (!match) continue;
		const indent = match[1]!.length;
		while (stack.at(-1)!.indent >= indent) stack.pop();
		const parent = stack.at(-1)!.at;
		const key = unquote(match[2]!);
		if (match[3] !== undefined && match[3] !== '' && match[3] !== '{}') parent[key] = unquote(match[3]);
		else {
			const child: Yaml = {};
			parent[key] = child;
			stack.push({ indent, at: child });
		}
	}
	return root;
}

function unquote(scalar: string): string {
	if (scalar.startsWith("'")) return scalar.slice(1, -1).replaceAll("''", "'");
	return scalar.startsWith('"') ? scalar.slice(1, -1) : scalar;
}
