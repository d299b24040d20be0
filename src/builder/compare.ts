import { diffManifests, manifestOf } from '#store/manifest.ts';
import { treeAnswer } from '#wire/api.ts';
import type { Attempt } from './attempt.ts';
import type { Made } from './bring.ts';

const MAX_SHOWN = 200;

/** Whether a builder makes the same of a source as whoever deployed it did; what differs is named by its path. */
export async function compareWith(attempt: Attempt, made: Made): Promise<void> {
	const { artifact } = attempt.job;
	if (artifact === made.artifact) return attempt.end('verified', null, null);
	const { set } = treeAnswer.parse(await attempt.read('expected'));
	const delta = diffManifests(manifestOf(Object.entries(set)), made.manifest);
	const differing = [...Object.keys(delta.set), ...delta.delete].sort();
	const more = differing.length > MAX_SHOWN ? `\nand ${differing.length - MAX_SHOWN} more` : '';
	await attempt.end('unreproducible', 'differs', `${differing.slice(0, MAX_SHOWN).join('\n')}${more}`);
}
