import { globs } from '#build/ignore.ts';
import type { RepositoryRow } from '#state/repositories.ts';
import { parseJsonc } from '#wire/jsonc.ts';
import { GitError, git } from '../git/git.ts';
import type { House } from '../house.ts';

/** Whether a push matters to an app of a repository that holds several: what changed since what was built of it last. */

const MAX_CONFIG_BYTES = 1024 * 1024;
const SHORT_COMMIT = 12;

/** null: it matters; else why not. */
export async function whyNotBuilt(
	house: House,
	row: RepositoryRow,
	of: { app: string; directory: string; environment: string; commit: string },
): Promise<string | null> {
	const { app, directory, commit } = of;
	const where = house.git.directory(row.name);
	const watch = await watchedBy(where, commit, directory);
	// The only one, and at the root: everything is its own.
	if (watch === null && directory === '') return null;
	const base = await builtLast(house, of);
	const changed = base === null ? null : await changedSince(where, base, commit);
	if (changed === null) return null;
	const others = row.apps.filter((one) => one.app !== app).map((one) => one.directory);
	const matters = changed.find((path) => concerns(path, { directory, watch, others }));
	if (matters !== undefined) return null;
	const what =
		watch === null ? 'outside the directories of other apps' : `in ${[directory, ...watch].filter((one) => one !== '').join(', ')}`;
	return `nothing changed ${what} since ${base!.slice(0, SHORT_COMMIT)}`;
}

/** Without `watch` it may need all that no other app has for itself. */
export function concerns(path: string, of: { directory: string; watch: readonly string[] | null; others: readonly string[] }): boolean {
	const { directory, watch, others } = of;
	if (inside(path, directory)) return directory !== '' || watch === null || globs(watch).covers(path);
	if (watch !== null) return globs(watch).covers(path);
	return !others.some((other) => other !== '' && inside(path, other));
}

function inside(path: string, directory: string): boolean {
	return directory === '' || path.startsWith(`${directory}/`);
}

/** What it is built of now, or was when it went live; null: it never was. */
async function builtLast(house: House, { app, environment }: { app: string; environment: string }): Promise<string | null> {
	const [open] = await house.state.builds.list({ app, environment, which: 'open', limit: 1 });
	if (open?.commit) return open.commit;
	const wants = await house.state.deployments.wants({ app, environment });
	if (!wants.some(({ removed }) => !removed)) return null;
	const past = await house.state.deployments.history({ app, environment, limit: 1 });
	const [last] = past;
	// What did not get there is tried again with whatever comes next; what was rolled back, too.
	return last?.kind === 'deploy' && last.state === 'Deployed' && last.reason !== 'harm' ? last.commit : null;
}

/** null: not to be told, as one of them is not here. */
async function changedSince(directory: string, base: string, commit: string): Promise<string[] | null> {
	try {
		const text = await git(['diff-tree', '-r', '-z', '--name-only', '--no-renames', base, commit], { directory });
		return text.split('\0').filter((path) => path !== '');
	} catch (error) {
		if (error instanceof GitError) return null;
		throw error;
	}
}

/** null: its jibe.json doesn't say. What is wrong with it is said by the build. */
async function watchedBy(directory: string, commit: string, inRepository: string): Promise<string[] | null> {
	const file = inRepository === '' ? 'jibe.json' : `${inRepository}/jibe.json`;
	try {
		const text = await git(['cat-file', 'blob', `${commit}:${file}`], { directory });
		if (text.length > MAX_CONFIG_BYTES) return null;
		const { watch } = parseJsonc(text).value as { watch?: unknown };
		return Array.isArray(watch) && watch.every((one) => typeof one === 'string') ? watch : null;
	} catch {
		return null;
	}
}
