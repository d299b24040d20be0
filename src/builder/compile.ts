import { existsSync, lstatSync, mkdirSync, readdirSync, readlinkSync, realpathSync, rmSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import type { BuildResult } from '#build/result.ts';
import type { AppConfig } from '#wire/config.ts';
import { confine } from './checkout.ts';
import type { PlannedStep } from '#wire/steps.ts';
import { BuildFault } from './fault.ts';
import { layOutputs } from './pack.ts';
import type { OutputFile } from './sandbox/sandbox.ts';

/**
 * `runtime: "fetch"`: the same code as on a laptop, on the same files, gives the same artifact. It runs in this program, and
 * nothing of the app's own runs in it; so that it reads nothing but the source and its packages, where each file lies is looked at.
 */
export interface Compiling {
	checkout: string;
	/** Of the app in the source, '' for its root. */
	directory: string;
	config: AppConfig;
	/** Directories with `node_modules` as they would lie in the source. */
	layers: readonly string[];
	cacheDir: string;
	/** Who the artifact goes to. */
	target: string;
	/** The steps that were run, and what they made: it is the app's as if it had been committed. */
	steps: readonly PlannedStep[];
	outputs: readonly OutputFile[];
}

/** @throws BuildFault */
export async function compile(of: Compiling): Promise<BuildResult> {
	const { checkout, config, layers, cacheDir, target } = of;
	const { buildApp } = await import('#build/build.ts');
	const { BuildError } = await import('#build/build-error.ts');
	const dir = join(checkout, of.directory);
	layOutputs(of.outputs, checkout);
	const linked = layers.flatMap((layer) => linkModules(layer, checkout));
	try {
		confine(checkout, layers);
		const built = await buildApp({
			dir,
			config: { entry: config.entry ?? '', include: [...config.include, ...made(of)], exclude: config.exclude },
			cacheDir,
			nodeVersion: process.versions.node,
			target,
		});
		refuseElsewhere(built, [checkout, ...layers]);
		return built;
	} catch (error) {
		if (!(error instanceof BuildError)) throw error;
		throw new BuildFault(error.code, error.describe().replaceAll(`${checkout}/`, ''), null, { cause: error });
	} finally {
		for (const path of linked) rmSync(path, { recursive: true, force: true });
	}
}

/** What steps declare is part of the app even where .gitignore leaves it out, as on a laptop where they were run by hand. */
function made({ steps, outputs, directory }: Compiling): string[] {
	const declared = steps.flatMap((step) => step.outputs ?? []);
	if (steps.every((step) => step.outputs !== null)) return declared;
	const prefix = directory === '' ? '' : `${directory}/`;
	const written = outputs.filter(({ path }) => path.startsWith(prefix)).map(({ path }) => path.slice(prefix.length));
	return [...declared, ...written.map((path) => `/${path.replace(/[\\*?[\]!#]/g, '\\$&')}`)];
}

/**
 * Every `node_modules` of a layer, as a directory in the source with links to what stands in it; links there, as managers make
 * for packages of a workspace, are made anew, because they mean what is beside them.
 */
function linkModules(layer: string, checkout: string): string[] {
	return modulesIn(layer, '').flatMap((path) => {
		const to = join(checkout, path);
		if (existsSync(to) || !existsSync(join(checkout, path, '..'))) return [];
		linkEntries(join(layer, path), to);
		return [to];
	});
}

function linkEntries(from: string, to: string): void {
	mkdirSync(to);
	for (const entry of readdirSync(from, { withFileTypes: true })) {
		const [source, place] = [join(from, entry.name), join(to, entry.name)];
		if (entry.isSymbolicLink()) symlinkSync(readlinkSync(source), place);
		else if (entry.isDirectory() && entry.name.startsWith('@')) linkEntries(source, place);
		else symlinkSync(source, place);
	}
}

function modulesIn(layer: string, relative: string): string[] {
	return readdirSync(join(layer, relative), { withFileTypes: true }).flatMap((entry) => {
		const path = relative === '' ? entry.name : `${relative}/${entry.name}`;
		if (!entry.isDirectory()) return [];
		return entry.name === 'node_modules' ? [path] : modulesIn(layer, path);
	});
}

/** A lockfile or a setting may name any directory. */
function refuseElsewhere(built: BuildResult, allowed: readonly string[]): void {
	const roots = allowed.map((path) => realpathSync.native(path));
	for (const file of built.readFrom()) {
		const real = lstatSync(file, { throwIfNoEntry: false }) === undefined ? file : realpathSync.native(file);
		if (roots.some((root) => real.startsWith(`${root}/`))) continue;
		throw new BuildFault(
			'outside',
			`the build would read ${file}, which is not in the source`,
			'look for paths with ".." in lockfiles and settings',
		);
	}
}
