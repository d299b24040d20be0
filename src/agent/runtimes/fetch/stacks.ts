import { SourceMap, type SourceMapPayload } from 'node:module';
import { existsSync } from 'node:fs';
import { readModulePack, type ModulePack } from '#store/module-pack.ts';

/**
 * Stack traces in the words of the sources. Maps are read when the first trace of an app is looked at, never at load.
 */
export function mapStacks(root: { url: string; path: string; maps: string }): void {
	const lookUp = createLookUp(root);
	// `callSite.toString()` prints `name (file:///…/src/a.ts:10:5)`; the place is what changes.
	const place = new RegExp(`${escape(root.url)}([^():]+):(\\d+):(\\d+)`);
	Error.prepareStackTrace = (error, callSites) => {
		const lines = callSites.map((site: CallSite) => `\n    at ${site.toString().replace(place, lookUp)}`);
		return `${headline(error)}${lines.join('')}`;
	};
}

/** Node's types leave out that it prints itself. */
interface CallSite extends NodeJS.CallSite {
	toString(): string;
}

function headline(error: Error): string {
	try {
		return Error.prototype.toString.call(error);
	} catch {
		return 'Error';
	}
}

function createLookUp(root: { path: string; maps: string }): (all: string, file: string, line: string, column: string) => string {
	let pack: ModulePack | null = null;
	const known = new Map<string, SourceMap | null>();
	const find = (file: string): SourceMap | null => {
		let map = known.get(file);
		if (map !== undefined) return map;
		map = null;
		try {
			if (!pack && existsSync(root.maps)) pack = readModulePack(root.maps);
			const json = pack?.slice(file);
			if (json) map = new SourceMap(JSON.parse(json.toString()) as SourceMapPayload);
			if (pack) known.set(file, map);
		} catch {
			known.set(file, null); // a map that can't be read: the place in the compiled text is better than no trace
		}
		return map;
	};
	return (_all, file, line, column) => {
		const path = decodeURIComponent(file.replace(/[?#].*/, ''));
		const origin = find(path)?.findEntry(Number(line) - 1, Number(column) - 1);
		const at = origin && 'originalLine' in origin ? [origin.originalLine + 1, origin.originalColumn + 1] : [line, column];
		return `${root.path}/${path}:${at.join(':')}`;
	};
}

function escape(text: string): string {
	return text.replaceAll(/[.*+?^${}()|[\]\\]/g, '\\$&');
}
