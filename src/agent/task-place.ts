import { closeSync, mkdirSync, openSync, readdirSync, readFileSync, readSync, realpathSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { appDirectory, vendorDirectory, viewOf, type Layout } from './layout.ts';
import type { ReleaseSpec } from '#wire/region.ts';

/** Where a task's command runs: the release as real files, and the commands of its packages. */
export interface TaskPlace {
	/** On this server; all of it goes when the task ends. */
	directory: string;
	/** The release's root as the command sees it. */
	root: string;
	/** Directories of commands as the command sees them, first to last. */
	path: string[];
}

const SYSTEM_PATH = ['/usr/local/bin', '/usr/bin', '/bin'];
const FIRST_LINE_BYTES = 128;

export function taskPlace(layout: Layout, spec: ReleaseSpec, name: string): TaskPlace {
	const view = viewOf(layout, spec, spec.vendor);
	const directory = join(tasksDirectory(layout, spec), name);
	const seen = join(view.app, 'tasks', name);
	return { directory, root: join(seen, 'root'), path: [join(seen, 'bin'), ...SYSTEM_PATH] };
}

export function tasksDirectory(layout: Layout, place: { app: string; environment: string }): string {
	return join(appDirectory(layout, place), 'tasks');
}

/** What `npx` would find: the commands of the app's own dependencies, and `node`, which is the one that runs the app. */
export function layCommands(layout: Layout, spec: ReleaseSpec, { directory }: TaskPlace): void {
	const view = viewOf(layout, spec, spec.vendor);
	const bin = join(directory, 'bin');
	mkdirSync(bin, { recursive: true });
	symlinkSync(view.node, join(bin, 'node'));
	if (spec.vendor === null || view.vendor === null) return;
	const here = join(vendorDirectory(layout, spec.vendor), 'node_modules');
	const seen = join(view.vendor, 'node_modules');
	const made = new Set(['node']);
	for (const name of packagesIn(here)) {
		for (const [command, file] of commandsOf(join(here, name, 'package.json'))) {
			if (made.has(command)) continue;
			made.add(command);
			layCommand(join(bin, command), join(here, name, file), join(seen, name, file), view.node);
		}
	}
}

function packagesIn(directory: string): string[] {
	return namesIn(directory).flatMap((name) =>
		name.startsWith('@') ? namesIn(join(directory, name)).map((inner) => `${name}/${inner}`) : [name],
	);
}

function namesIn(directory: string): string[] {
	try {
		return readdirSync(directory).filter((name) => !name.startsWith('.')).toSorted(); // prettier-ignore
	} catch {
		return []; // no packages, or a file among them
	}
}

/** Names to files below the package. What is odd is left out: it could not be run anyway. */
function commandsOf(file: string): [string, string][] {
	try {
		const { name, bin } = JSON.parse(readFileSync(file, 'utf8')) as { name?: string; bin?: string | Record<string, string> };
		const commands = typeof bin === 'string' ? { [name?.split('/').at(-1) ?? '']: bin } : (bin ?? {});
		return Object.entries(commands).filter(([command, path]) => /^[A-Za-z0-9._-]+$/.test(command) && isInside(path));
	} catch {
		return []; // not a package
	}
}

function isInside(path: unknown): path is string {
	return typeof path === 'string' && !path.startsWith('/') && !path.split('/').includes('..');
}

/** A script is run by the app's own Node: its file need not be executable, nor `env` find another one. */
function layCommand(at: string, here: string, seen: string, node: string): void {
	try {
		const real = realpathSync(here);
		if (/^#!.*\bnode\b/.test(firstLine(real)) || /\.[cm]?js$/.test(real)) {
			writeFileSync(at, `#!/bin/sh\nexec '${node}' '${seen}' "$@"\n`, { mode: 0o755 });
		} else symlinkSync(seen, at);
	} catch {
		// a package without the file that it names
	}
}

function firstLine(file: string): string {
	const buffer = Buffer.alloc(FIRST_LINE_BYTES);
	const descriptor = openSync(file, 'r');
	try {
		return buffer.subarray(0, readSync(descriptor, buffer)).toString('latin1').split('\n')[0]!;
	} finally {
		closeSync(descriptor);
	}
}
