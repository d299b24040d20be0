import { sha256 } from '#digest/digest.ts';
import type { RepositoryRow } from '#state/repositories.ts';
import type { PullRequest } from '#wire/repositories.ts';
import type { House } from '../house.ts';
import { factsOf, queueAll } from './branches.ts';
import { endPreview } from './previews.ts';

/** What a fork asks to be merged, built once somebody has looked at it: in a domain of trust and an environment of its own. */

const HASH_CHARACTERS = 6;
const MAX_WHY = 500;

/** No branch of the repository has an environment of this name. */
export function forkEnvironment(repository: string, number: number): string {
	const hash = sha256(`fork\0${repository}\0${number}`).slice('sha256:'.length);
	return `pr-${number}-${hash.slice(0, HASH_CHARACTERS)}`;
}

/** Queues all apps of it; answers, for people, what. */
export async function fork(house: House, row: RepositoryRow, pull: PullRequest): Promise<string> {
	const { commit, number, from, title, approved } = pull;
	const facts = await factsOf(house, row, commit);
	const why = `pull request #${number} of ${from}: ${title}`.slice(0, MAX_WHY);
	const environmentOf = async () => forkEnvironment(row.name, number);
	const by = approved?.by ?? 'jibe';
	// It follows none of the commits that were built there before.
	return queueAll(house, row, environmentOf, {
		...facts,
		branch: `pull/${number}`,
		trust: 'fork',
		priority: 'preview',
		by,
		why,
		force: true,
	});
}

export async function forkGone(house: House, row: RepositoryRow, number: number): Promise<string> {
	const environment = forkEnvironment(row.name, number);
	const ended = [];
	for (const { app } of row.apps) ended.push(await endPreview(house, { app, environment, by: `pull:${row.name}` }));
	return ended.some((one) => one) ? `#${number} is closed, and ${environment} ends with it` : `#${number} is closed`;
}
