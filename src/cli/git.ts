import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';

/** What git knows about a directory: asked in one call that runs beside the build. */
export interface GitFacts {
	commit: string;
	branch: string | null;
	dirty: boolean;
	/** HEAD and the commits before it, the nearest first. */
	ancestors: string[];
}

const ANCESTORS = 50;
const GIT_TIMEOUT_MS = 5_000;
/** Never an option of git's. */
const COMMIT = /^[0-9a-f]{7,64}$/;

/** Null without a repository, without git, or before the first commit. */
export async function gitFacts(directory: string): Promise<GitFacts | null> {
	const repository = findRepository(directory);
	if (repository === null) return null;
	const [status, ancestors] = await Promise.all([
		git(directory, ['status', '--porcelain=v2', '--branch', '--untracked-files=normal', '--', '.']),
		readAncestors(directory, 'HEAD'),
	]);
	if (status === null || ancestors === null) return null;
	const header = (name: string) => new RegExp(`^# branch\\.${name} (.*)$`, 'm').exec(status)?.[1] ?? null;
	const commit = header('oid');
	if (commit === null || commit === '(initial)') return null;
	const head = header('head');
	return { commit, branch: head === '(detached)' ? null : head, dirty: /^[^#]/m.test(status), ancestors };
}

/** True when `commit` is HEAD or before it; null when this clone does not have the commit. */
export async function isAncestor(directory: string, commit: string): Promise<boolean | null> {
	if (!COMMIT.test(commit)) return null;
	const code = await exitCode(directory, ['merge-base', '--is-ancestor', commit, 'HEAD']);
	return code === 0 ? true : code === 1 ? false : null;
}

/** One line a commit that `commit` has and HEAD lacks; empty when it is not in this clone. */
export async function missingCommits(directory: string, commit: string): Promise<string[]> {
	if (!COMMIT.test(commit)) return [];
	const text = await git(directory, ['log', '--format=%h %an: %s', '--max-count=5', `HEAD..${commit}`]);
	return text === null ? [] : text.split('\n').filter((line) => line !== '');
}

/** `commit` and those before it, the nearest first; empty when it is not in this clone. */
export async function ancestorsOf(directory: string, commit: string): Promise<string[]> {
	if (!COMMIT.test(commit) || findRepository(directory) === null) return [];
	return (await readAncestors(directory, commit)) ?? [];
}

async function readAncestors(directory: string, from: string): Promise<string[] | null> {
	const text = await git(directory, ['rev-list', `--max-count=${ANCESTORS}`, from]);
	return text === null ? null : text.split('\n').filter((line) => line !== '');
}

function findRepository(directory: string): string | null {
	for (let at = resolve(directory); ; at = dirname(at)) {
		if (existsSync(join(at, '.git'))) return at;
		if (at === dirname(at)) return null;
	}
}

function git(directory: string, args: readonly string[]): Promise<string | null> {
	return new Promise((settle) => {
		execFile('git', ['-C', directory, ...args], options(), (error, stdout) => settle(error === null ? stdout : null));
	});
}

function exitCode(directory: string, args: readonly string[]): Promise<number> {
	return new Promise((settle) => {
		execFile('git', ['-C', directory, ...args], options(), (error) =>
			settle(error === null ? 0 : typeof error.code === 'number' ? error.code : -1),
		);
	});
}

function options(): { encoding: 'utf8'; timeout: number; maxBuffer: number; env: NodeJS.ProcessEnv } {
	// Optional locks would have us write to the index of somebody who is committing.
	const env = { ...process.env, GIT_OPTIONAL_LOCKS: '0', LC_ALL: 'C' };
	return { encoding: 'utf8', timeout: GIT_TIMEOUT_MS, maxBuffer: 64 * 1024 * 1024, env };
}
