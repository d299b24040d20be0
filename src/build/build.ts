import { realpathSync } from 'node:fs';
import { TreeError } from '#store/manifest.ts';
import { readIfThere } from './action-cache.ts';
import { BuildError } from './build-error.ts';
import { refresh } from './refresh.ts';
import { resultOf, type BuildResult, type Outcome, type ResultPlaces } from './result.ts';
import { Session } from './session.ts';
import { decodeState } from './state.ts';

/** From a directory to an artifact for `runtime: "fetch"`. */

export interface BuildInput {
	dir: string;
	config: { entry: string; include?: readonly string[]; exclude?: readonly string[] };
	/** Shared by all apps of a person: what was compiled, vendor trees, and per app the state of its last build. */
	cacheDir: string;
	/** Of the release's runtime. */
	nodeVersion: string;
	/** Who the artifact goes to (installation and app): deltas are made against what that one last accepted. */
	target?: string;
}

/** @throws BuildError for a fault of the app, with its place */
export async function buildApp(input: BuildInput): Promise<BuildResult> {
	const session = new Session({
		dir: realpathSync(input.dir),
		entry: input.config.entry.replace(/^\.\//, ''),
		include: input.config.include ?? [],
		exclude: input.config.exclude ?? [],
		nodeVersion: input.nodeVersion,
		cacheDir: input.cacheDir,
	});
	const outcome = await outcomeOf(session);
	const places: ResultPlaces = {
		dir: session.settings.dir,
		stateDir: session.stateDir,
		cacheDir: input.cacheDir,
		target: input.target ?? '',
		actions: session.actions,
	};
	return resultOf(outcome, places);
}

async function outcomeOf(session: Session): Promise<Outcome> {
	try {
		const old = stateOf(session);
		return (old && refresh(session, old)) ?? (await buildWhole(session));
	} catch (error) {
		// Names and sizes that no artifact may have are a fault of the app like any other.
		if (error instanceof TreeError) throw new BuildError('bad_path', error.message, { cause: error });
		throw error;
	}
}

function stateOf(session: Session) {
	const bytes = readIfThere(session.statePath);
	return bytes && decodeState(bytes, session.key);
}

/** Loaded only when needed: a build in which little changed never sees resolver, linker and lockfiles. */
async function buildWhole(session: Session): Promise<Outcome> {
	const { buildWhole: whole } = await import('./full.ts');
	// Read anew: the attempt to refresh has written into its copy.
	return whole(session, stateOf(session));
}
