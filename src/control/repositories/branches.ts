import { targetOf } from '#pipeline/branches.ts';
import type { RepositoryRow } from '#state/repositories.ts';
import type { NewBuild } from '#wire/builds.ts';
import { PRODUCTION } from '#wire/names.ts';
import { enqueue } from '../builds/builds.ts';
import { GitError, git } from '../git/git.ts';
import type { House } from '../house.ts';
import { whyNotBuilt } from './affected.ts';
import type { Pushes, Queued } from './look.ts';
import { endPreview, previewOf } from './previews.ts';

/** What comes of a branch that moved elsewhere: a build of each of its repository's apps, where the rules say. */

const ANCESTORS = 50;
const FAR_ANCESTORS = 20;
const SHORT_COMMIT = 12;
const MAX_WORDS = 200;

export function pushesOf(house: House): Pushes {
	return {
		async moved({ row, branch, before, after, by, queued }) {
			const target = targetOf(branch, row.rules);
			if (target === null) return `${branch} goes nowhere`;
			const trust = target === 'preview' ? ('preview' as const) : ('production' as const);
			const environmentOf = async (app: string) => (trust === 'production' ? PRODUCTION : previewOf(house, app, branch));
			const [facts, why, back] = await Promise.all([
				factsOf(house, row, after, before),
				whyNotAll(house, row, after, environmentOf),
				isForced(house, row, before, after),
			]);
			// Who forces a branch elsewhere has said that what was there is to go.
			const forced = back
				? { force: true, why: `in place of ${before!.slice(0, SHORT_COMMIT)}, which it does not contain` }
				: { force: false, why: null };
			const of = { ...facts, ...forced, branch, trust, priority: target, by, queued };
			return queueAll(house, row, environmentOf, of, (app) => why.get(app) ?? null);
		},
		async gone({ row, branch, by }) {
			if (targetOf(branch, row.rules) !== 'preview') return `${branch} is gone; what it deployed stays`;
			const ended: string[] = [];
			for (const { app } of row.apps) {
				const environment = await previewOf(house, app, branch);
				if (await endPreview(house, { app, environment, by })) ended.push(`${environment} of ${app}`);
			}
			return ended.length === 0 ? `${branch} is gone; it had no preview` : `${branch} is gone, and with it ${ended.join(', ')}`;
		},
	};
}

async function whyNotAll(
	house: House,
	row: RepositoryRow,
	commit: string,
	environmentOf: (app: string) => Promise<string>,
): Promise<Map<string, string | null>> {
	const why = new Map<string, string | null>();
	for (const { app, directory } of row.apps)
		why.set(app, await whyNotBuilt(house, row, { app, directory, environment: await environmentOf(app), commit }));
	return why;
}

type Of = Pick<NewBuild, 'commit' | 'author' | 'subject' | 'ancestors' | 'branch' | 'trust' | 'priority' | 'by' | 'why' | 'force'> & {
	queued?: ((one: Queued) => void) | undefined;
};

/** All apps of the repository, but those that `whyNot` says something of; answers, for people, what. */
export async function queueAll(
	house: House,
	row: RepositoryRow,
	environmentOf: (app: string) => Promise<string>,
	{ queued, ...of }: Of,
	whyNot: (app: string) => string | null = () => null,
): Promise<string> {
	const said: string[] = [];
	for (const { app, directory } of row.apps) {
		const source = { kind: 'git' as const, repository: row.name, commit: of.commit! };
		const rest = { kind: 'deploy' as const, source, lane: row.name, directory, platform: null, now: false, artifact: null, verifies: null };
		const environment = await environmentOf(app);
		const why = whyNot(app);
		if (why !== null) {
			said.push(`${app} is not built: ${why}`);
			continue;
		}
		const { id, already } = await enqueue(house, { ...of, ...rest, app, environment });
		queued?.({ id, app });
		said.push(`${app} ${already ? 'is built already' : 'is queued'} as ${id} (${environment})`);
	}
	return said.join(', ');
}

/** `before`: where the branch was, which may be further back than what is looked at. */
export async function factsOf(
	house: House,
	row: RepositoryRow,
	commit: string,
	before: string | null = null,
): Promise<Pick<NewBuild, 'commit' | 'author' | 'subject' | 'ancestors'>> {
	const args = ['log', '-z', `--max-count=${ANCESTORS}`, '--format=%H%n%an%n%s', commit, '--'];
	const directory = house.git.directory(row.name);
	const rows = (await git(args, { directory })).split('\0').map((one) => one.split('\n'));
	const [, author = '', subject = ''] = rows[0] ?? [];
	const near = rows.flatMap(([id = '']) => (id === '' ? [] : [id]));
	const far = near.length < ANCESTORS || before === null || near.includes(before) ? [] : await farAncestors(directory, commit, before);
	const ancestors = [...near.slice(0, ANCESTORS - far.length), ...far];
	return { commit, author: author.slice(0, MAX_WORDS), subject: subject.slice(0, MAX_WORDS), ancestors };
}

/** Of more commits than are named, those that may be what serves: where the branch was, and the ones before. */
async function farAncestors(directory: string, commit: string, before: string): Promise<string[]> {
	if (!(await isAncestor(directory, before, commit))) return [];
	const text = await git(['rev-list', `--max-count=${FAR_ANCESTORS}`, before], { directory });
	return text.split('\n').filter((line) => line !== '');
}

/** It went back, or aside. */
async function isForced(house: House, row: RepositoryRow, before: string | null, after: string): Promise<boolean> {
	if (before === null || before === after) return false;
	return !(await isAncestor(house.git.directory(row.name), before, after));
}

/** True also where git can't say: what is not here can't be compared. */
async function isAncestor(directory: string, one: string, of: string): Promise<boolean> {
	try {
		await git(['merge-base', '--is-ancestor', one, of], { directory });
		return true;
	} catch (error) {
		if (error instanceof GitError) return error.code !== 1;
		throw error;
	}
}
