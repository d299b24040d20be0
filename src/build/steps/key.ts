import { canonicalJson, sha256, type Digest } from '#digest/digest.ts';

/** What a step's result depends on, as one digest; and what is different between two. */

export interface Parts {
	inputs: Digest;
	[part: string]: unknown;
}

export function keyOf(parts: Parts): Digest {
	return sha256(`jibe.step.v1\0${canonicalJson(parts)}`);
}

/** One file that a step sees. */
export interface Input {
	path: string;
	/** Of a file its content's digest, with ` x` behind it when it can be run; of a link `-> target`. */
	is: string;
}

/** The list that `inputs` is the digest of: one line a file, sorted by the bytes of their paths. */
export function encodeInputs(inputs: readonly Input[]): Buffer {
	const sorted = inputs.toSorted((a, b) => Buffer.compare(Buffer.from(a.path), Buffer.from(b.path)));
	return Buffer.from(sorted.map(({ path, is }) => `${JSON.stringify(path)} ${is}\n`).join(''));
}

/** By path. Lines that are none are left out: the list is for a person's eyes. */
function decodeInputs(list: Uint8Array): Map<string, string> {
	const lines = Buffer.from(list).toString().split('\n');
	return new Map(
		lines.flatMap((line) => {
			const [, path, is] = /^("(?:[^"\\]|\\.)*") (.+)$/.exec(line) ?? [];
			return path !== undefined && is !== undefined ? [[JSON.parse(path) as string, is] as const] : [];
		}),
	);
}

export interface Change {
	/** run, env, inputs, needs, … */
	part: string;
	/** Of the file, the variable, the step. */
	name: string | null;
	before: string | null;
	now: string | null;
}

export interface Told {
	parts: Parts;
	/** The list of its files, where it was kept. */
	inputs: Uint8Array | null;
}

/** What is different, file by file where both lists are there. */
export function differences(before: Told, now: Told): Change[] {
	const parts = [...new Set([...Object.keys(before.parts), ...Object.keys(now.parts)])].filter((part) => part !== 'format');
	return parts.flatMap((part) => {
		const [was, is] = [before.parts[part], now.parts[part]];
		if (canonicalJson(was ?? null) === canonicalJson(is ?? null)) return [];
		if (part === 'inputs') return inputChanges(before, now);
		if (isRecord(was) && isRecord(is)) return changesOf(part, new Map(Object.entries(was)), new Map(Object.entries(is)));
		return [{ part, name: null, before: shown(was), now: shown(is) }];
	});
}

function inputChanges(before: Told, now: Told): Change[] {
	if (before.inputs === null || now.inputs === null) {
		return [{ part: 'inputs', name: null, before: before.parts.inputs, now: now.parts.inputs }];
	}
	return changesOf('inputs', decodeInputs(before.inputs), decodeInputs(now.inputs));
}

function changesOf(part: string, was: ReadonlyMap<string, unknown>, is: ReadonlyMap<string, unknown>): Change[] {
	const names = [...new Set([...was.keys(), ...is.keys()])].filter((name) => was.get(name) !== is.get(name));
	return names.sort().map((name) => ({ part, name, before: shown(was.get(name)), now: shown(is.get(name)) }));
}

function isRecord(value: unknown): value is Record<string, unknown> {
	return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function shown(value: unknown): string | null {
	return value === undefined || value === null ? null : typeof value === 'string' ? value : JSON.stringify(value);
}
