import { canonicalJson } from '#digest/digest.ts';
import type { BuildResult } from '#build/result.ts';
import type { ReleaseAnswer } from '#wire/api.ts';
import type { AppConfig } from '#wire/config.ts';
import { count } from './output.ts';

/** What a deploy would change of what serves: by the app's own names, not by what happens to be uploaded. */
export interface Change {
	changed: string[];
	added: string[];
	gone: string[];
	/** What is installed differs. */
	dependencies: boolean;
	/** Keys of jibe.json. */
	config: string[];
}

const SHOWN = 10;

/** null: nothing serves, or its files are not known any more. */
export function changeFrom(
	release: ReleaseAnswer | null,
	built: Pick<BuildResult, 'manifest' | 'vendor'>,
	config: AppConfig,
): Change | null {
	if (!release?.files) return null;
	const [before, after] = [ownFiles(Object.entries(release.files)), ownFiles(built.manifest)];
	return {
		changed: [...after].flatMap(([path, entry]) => (before.has(path) && before.get(path) !== entry ? [path] : [])),
		added: [...after.keys()].filter((path) => !before.has(path)),
		gone: [...before.keys()].filter((path) => !after.has(path)),
		dependencies: release.vendor !== (built.vendor?.root ?? null),
		config: changedKeys(release.config, config),
	};
}

export function isNothing({ changed, added, gone, dependencies, config }: Change): boolean {
	return changed.length + added.length + gone.length + config.length === 0 && !dependencies;
}

export function inWords({ changed, added, gone, dependencies, config }: Change): string[] {
	return [
		`  ${count(changed.length, 'file')} changed, ${added.length} added, ${gone.length} gone`,
		...shortened([...changed, ...added.map((path) => `${path} (new)`), ...gone.map((path) => `${path} (gone)`)]),
		...(dependencies ? ['  dependencies differ'] : []),
		...(config.length === 0 ? [] : [`  jibe.json differs in ${config.join(', ')}`]),
	];
}

/** Source maps and the index follow from the modules. */
function ownFiles(entries: Iterable<[string, unknown]>): Map<string, string> {
	return new Map(
		[...entries].flatMap(([path, entry]) => {
			const own = /^(?:modules|files)\/(.+)$/.exec(path)?.[1];
			return own === undefined ? [] : [[own, canonicalJson(entry)]];
		}),
	);
}

function changedKeys(before: AppConfig, after: AppConfig): string[] {
	const [old, next] = [before as Record<string, unknown>, after as Record<string, unknown>];
	const keys = new Set([...Object.keys(old), ...Object.keys(next)]);
	return [...keys].filter((key) => canonicalJson(old[key] ?? null) !== canonicalJson(next[key] ?? null)).toSorted();
}

function shortened(names: readonly string[]): string[] {
	const more = names.length - SHOWN;
	return [...names.slice(0, SHOWN).map((name) => `    ${name}`), ...(more > 0 ? [`    and ${more} more`] : [])];
}
