import { sha256 } from '#digest/digest.ts';
import { previewNames, targetOf } from '#pipeline/branches.ts';
import type { RepositoryRow } from '#state/repositories.ts';
import type { NewBuild } from '#wire/builds.ts';
import { PRODUCTION } from '#wire/names.ts';
import { enqueue } from '../builds/builds.ts';
import { git } from '../git/git.ts';
import type { House } from '../house.ts';
import type { Pushes } from './look.ts';

/** What comes of a branch that moved elsewhere: a build of each of its repository's apps, where the rules say. */

const ANCESTORS = 50;
const MAX_WORDS = 200;

export function pushesOf(house: House): Pushes {
	return {
		async moved({ row, branch, after, by }) {
			const target = targetOf(branch, row.rules);
			if (target === null) return `${branch} goes nowhere`;
			const facts = await factsOf(house, row, after);
			const trust = target === 'preview' ? ('preview' as const) : ('production' as const);
			const environmentOf = (app: string) => (trust === 'production' ? PRODUCTION : previewNames(app, branch, hashOf(branch)).plain);
			return queueAll(house, row, environmentOf, { ...facts, branch, trust, priority: target, by, why: null, force: false });
		},
		gone: async ({ branch }) => `${branch} is gone`,
	};
}

type Of = Pick<NewBuild, 'commit' | 'author' | 'subject' | 'ancestors' | 'branch' | 'trust' | 'priority' | 'by' | 'why' | 'force'>;

/** All apps of the repository; answers, for people, what. */
export async function queueAll(house: House, row: RepositoryRow, environmentOf: (app: string) => string, of: Of): Promise<string> {
	const said: string[] = [];
	for (const { app, directory } of row.apps) {
		const source = { kind: 'git' as const, repository: row.name, commit: of.commit! };
		const rest = { kind: 'deploy' as const, source, lane: row.name, directory, platform: null, now: false, artifact: null, verifies: null };
		const { id, already } = await enqueue(house, { ...of, ...rest, app, environment: environmentOf(app) });
		said.push(`${app} ${already ? 'is built already' : 'is queued'} as ${id} (${environmentOf(app)})`);
	}
	return said.join(', ');
}

export async function factsOf(
	house: House,
	row: RepositoryRow,
	commit: string,
): Promise<Pick<NewBuild, 'commit' | 'author' | 'subject' | 'ancestors'>> {
	const args = ['log', '-z', `--max-count=${ANCESTORS}`, '--format=%H%n%an%n%s', commit, '--'];
	const rows = (await git(args, { directory: house.git.directory(row.name) })).split('\0').map((one) => one.split('\n'));
	const [, author = '', subject = ''] = rows[0] ?? [];
	const ancestors = rows.flatMap(([id = '']) => (id === '' ? [] : [id]));
	return { commit, author: author.slice(0, MAX_WORDS), subject: subject.slice(0, MAX_WORDS), ancestors };
}

function hashOf(text: string): string {
	return sha256(text).slice('sha256:'.length);
}
