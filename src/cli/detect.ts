import { BuildError } from '#build/build-error.ts';
import { detectApp as detectAny } from '#build/detect.ts';
import { EXIT, Failure } from './failure.ts';

/** What a directory without jibe.json is, as far as this version runs it. */
export interface Guess {
	app: string;
	entry: string;
	/** Sentences for a person. */
	assumed: string[];
}

/** @throws Failure (no_app) when nothing here looks like an app that this version runs */
export function detectApp(directory: string): Guess {
	const found = asUsage(() => detectAny(directory));
	if (found?.runtime === 'fetch' && found.entry !== undefined) return { app: found.app, entry: found.entry, assumed: found.assumptions };
	const what = found === null ? '' : `${found.assumptions.slice(1).join(' ')} This version does not run "${found.runtime}".\n`;
	throw new Failure('no_app', EXIT.usage, `no jibe.json in ${directory}, and nothing in it looks like an app`, {
		hint: `${what}an app's entry exports default { fetch(request) {…} }; jibe init writes a jibe.json that names it`,
	});
}

/** A package.json that can't be read. */
export function asUsage<T>(look: () => T): T {
	try {
		return look();
	} catch (error) {
		if (!(error instanceof BuildError)) throw error;
		throw new Failure('bad_package_json', EXIT.usage, error.describe(), { cause: error });
	}
}
