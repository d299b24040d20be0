import type { Claimed } from '#state/deliveries.ts';
import { PUSHED_EVENT } from '#state/pushed.ts';
import type { RepositoryRow } from '#state/repositories.ts';
import { git } from '../git/git.ts';
import type { House } from '../house.ts';
import { fork, forkGone } from './fork.ts';
import type { ToldPull } from './forges/forge.ts';
import type { Looked } from './looks.ts';
import { CloneError } from './mirror.ts';

/** What a look makes of a branch that is where it is now. Answers, for people, what comes of it. */
export interface Pushes {
	/** `before`: what was looked at last; null: nothing. */
	moved(of: {
		row: RepositoryRow;
		branch: string;
		before: string | null;
		after: string;
		by: string;
		/** Told of each build. */
		queued?: (one: Queued) => void;
	}): Promise<string>;
	gone(of: { row: RepositoryRow; branch: string; by: string }): Promise<string>;
}

export interface Queued {
	id: string;
	app: string;
}

/** What a look needs. */
export interface Looking {
	house: House;
	pushes: Pushes;
	/** Ends what is under way. */
	stop: AbortSignal;
}

/**
 * A webhook is a hint: what is deployed is where the branch is when one looks. So an old one that is sent again, or one
 * that comes after its successor, does no harm.
 */
export function look(of: Looking, claimed: Claimed): Promise<Looked> {
	return of.house.git.using(claimed.repository, () => looked(of, claimed));
}

async function looked(of: Looking, claimed: Claimed): Promise<Looked> {
	const { house } = of;
	const row = await house.state.repositories.get(claimed.repository);
	if (!row) return { state: 'ignored', outcome: 'the repository was removed' };
	if (claimed.event === 'push') return branch(of, row, claimed.ref ?? '');
	if (claimed.event === PUSHED_EVENT) return pushed(of, row, claimed);
	if (claimed.event === 'pull') return pull(of, row, claimed.detail as unknown as ToldPull);
	if (claimed.event === 'approved') return approved(house, row, Number(claimed.detail['number']));
	return { state: 'ignored', outcome: `nothing is known of ${claimed.event}` };
}

async function branch({ house, pushes, stop }: Looking, row: RepositoryRow, ref: string): Promise<Looked> {
	const name = ref.slice('refs/heads/'.length);
	const by = `push:${row.name}`;
	const { after } = await house.mirrors.bring(row, await house.repositorySecrets.open(row), ref, fetchedRef(ref), stop);
	const directory = house.git.directory(row.name);
	const before = (await git(['for-each-ref', '--format=%(objectname)', ref], { directory })).trim() || null;
	if (after === null) {
		const outcome = await pushes.gone({ row, branch: name, by });
		if (before !== null) await git(['update-ref', '-d', ref], { directory });
		return { state: 'done', outcome };
	}
	const outcome = await pushes.moved({ row, branch: name, before, after, by });
	// Last: whoever takes over where this one ended looks at the same again.
	await git(['update-ref', ref, after], { directory });
	return { state: 'done', outcome };
}

/** A control took it, and was gone before anything came of it. */
async function pushed({ house, pushes }: Looking, row: RepositoryRow, { ref, detail }: Claimed): Promise<Looked> {
	const kept = await house.kept.refresh(row.name);
	const branch = (ref ?? '').slice('refs/heads/'.length);
	const by = String(detail['by']);
	const after = kept?.refs[ref ?? ''];
	if (after === undefined) return { state: 'done', outcome: await pushes.gone({ row, branch, by }) };
	const before = typeof detail['before'] === 'string' ? detail['before'] : null;
	return { state: 'done', outcome: await pushes.moved({ row, branch, before, after, by }) };
}

/** Beside the branch, which says what was looked at. */
function fetchedRef(ref: string): string {
	return `refs/jibe/fetched/${ref.slice('refs/'.length)}`;
}

/** Those of the repository's own branches are pushed there; those of forks wait for a person. */
async function pull({ house, stop }: Looking, row: RepositoryRow, told: ToldPull): Promise<Looked> {
	if (!told.fork) return { state: 'ignored', outcome: 'its branch is one of this repository, and built as such' };
	const { number, title, author, branch: from, state } = told;
	const seen = { repository: row.name, number, title, author, from: told.from ?? 'a fork that is gone', branch: from };
	if (state === 'closed') {
		await house.state.repositories.sawPullRequest({ ...seen, commit: told.commit, state });
		return { state: 'done', outcome: await forkGone(house, row, number) };
	}
	if (row.rules.forks === 'ignore') return { state: 'ignored', outcome: 'pull requests from forks are not built' };
	const { after } = await house.mirrors.bring(row, await house.repositorySecrets.open(row), told.ref, `refs/jibe/pull/${number}`, stop);
	if (after === null) throw new CloneError('repository_not_found', `the forge has no ${told.ref} (yet)`, true);
	const now = await house.state.repositories.sawPullRequest({ ...seen, commit: after, state });
	if (now.approved?.commit === after) return approved(house, row, number);
	const hint = `jibe repo approve ${row.name} ${number} --commit ${after.slice(0, 12)}`;
	return { state: 'done', outcome: `#${number} is from a fork: it is built when a deployer says so (${hint})` };
}

async function approved(house: House, row: RepositoryRow, number: number): Promise<Looked> {
	const one = (await house.state.repositories.pullRequests(row.name)).find((of) => of.number === number);
	if (!one || one.state === 'closed') return { state: 'ignored', outcome: `#${number} is closed` };
	if (one.approved?.commit !== one.commit) return { state: 'ignored', outcome: `#${number} has moved on since` };
	return { state: 'done', outcome: await fork(house, row, one) };
}
