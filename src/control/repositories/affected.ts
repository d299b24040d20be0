import { basename, dirname } from 'node:path/posix';
import { globs } from '#build/ignore.ts';
import type { Digest } from '#digest/digest.ts';
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
	const { watch, modulesOnly } = await said(where, commit, directory);
	// The only one, and at the root: everything is its own.
	if (watch === null && directory === '') return null;
	const base = await builtLast(house, of);
	const changed = base === null ? null : await changedSince(where, base.commit, commit);
	if (changed === null) return null;
	const others = row.apps.filter((one) => one.app !== app).map((one) => one.directory);
	const packages =
		watch === null && modulesOnly ? await packagesOf(house, { app, directory, artifact: base!.artifact, where, commit }) : null;
	const matters = changed.find((path) => concerns(path, { directory, watch, others, packages }));
	if (matters !== undefined) return null;
	const since = base!.commit.slice(0, SHORT_COMMIT);
	if (watch !== null) return `nothing changed in ${[directory, ...watch].filter((one) => one !== '').join(', ')} since ${since}`;
	return `nothing changed ${packages === null ? 'outside the directories of other apps' : 'in what it is made of'} since ${since}`;
}

/** Packages of a workspace: which there are, and which of them what serves is made of. */
export interface Packages {
	all: readonly string[];
	used: readonly string[];
}

/** Without `watch` it may need all that neither another app nor a package has for itself that it doesn't use. */
export function concerns(
	path: string,
	of: { directory: string; watch: readonly string[] | null; others: readonly string[]; packages: Packages | null },
): boolean {
	const { directory, watch, others, packages } = of;
	if (inside(path, directory)) return directory !== '' || watch === null || globs(watch).covers(path);
	if (watch !== null) return globs(watch).covers(path);
	if (packages?.used.some((one) => inside(path, one))) return true;
	return ![...others, ...(packages?.all ?? [])].some((other) => other !== '' && inside(path, other));
}

function inside(path: string, directory: string): boolean {
	return directory === '' || path.startsWith(`${directory}/`);
}

/** What it is built of now, or was when it went live (then with what came of it); null: it never was. */
async function builtLast(
	house: House,
	{ app, environment }: { app: string; environment: string },
): Promise<{ commit: string; artifact: Digest | null } | null> {
	const [open] = await house.state.builds.list({ app, environment, which: 'open', limit: 1 });
	if (open?.commit) return { commit: open.commit, artifact: null };
	const wants = await house.state.deployments.wants({ app, environment });
	if (!wants.some(({ removed }) => !removed)) return null;
	const past = await house.state.deployments.history({ app, environment, limit: 1 });
	const [last] = past;
	// What did not get there is tried again with whatever comes next; what was rolled back, too.
	const live = last?.kind === 'deploy' && last.state === 'Deployed' && last.reason !== 'harm';
	return live && last.commit !== null ? { commit: last.commit, artifact: last.artifact } : null;
}

/** null: not to be told. An artifact holds what its modules import of other packages of the workspace, and those alone. */
async function packagesOf(
	house: House,
	of: { app: string; directory: string; artifact: Digest | null; where: string; commit: string },
): Promise<Packages | null> {
	const { app, directory, artifact, where, commit } = of;
	const tree = artifact === null ? null : await house.manifests.find(app, artifact);
	if (!tree) return null;
	const paths = (await git(['ls-tree', '-r', '-z', '--name-only', '--full-tree', commit], { directory: where })).split('\0');
	const locked = paths.filter((path) => LOCKFILES.includes(basename(path))).map(folderOf);
	// The names in the artifact begin where the lockfile lies.
	if (!locked.includes('') || locked.some((one) => one !== '' && inside(directory, one))) return null;
	const all = paths.filter((path) => path !== 'package.json' && basename(path) === 'package.json').map(folderOf);
	const held = new Set([...tree.manifest.keys()].flatMap(packageFolders));
	return { all, used: all.filter((one) => held.has(one)) };
}

const LOCKFILES = ['package-lock.json', 'npm-shrinkwrap.json', 'pnpm-lock.yaml', 'yarn.lock'];

/** '' for a file at the root. */
function folderOf(path: string): string {
	const folder = dirname(path);
	return folder === '.' ? '' : folder;
}

/** `modules/.workspaces/packages/lib/src/a.ts`: `packages`, `packages/lib` and `packages/lib/src`. */
function packageFolders(path: string): string[] {
	const [, inside] = /^[^/]+\/\.workspaces\/(.+)$/.exec(path) ?? [];
	if (inside === undefined) return [];
	const parts = inside.split('/').slice(0, -1);
	return parts.map((_, at) => parts.slice(0, at + 1).join('/'));
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

/** What its jibe.json says of its sources; what is wrong with it is said by the build. */
async function said(
	directory: string,
	commit: string,
	inRepository: string,
): Promise<{
	/** null: nothing. */
	watch: string[] | null;
	/** No command reads what it likes: its modules and files are all that it is made of. */
	modulesOnly: boolean;
}> {
	const file = inRepository === '' ? 'jibe.json' : `${inRepository}/jibe.json`;
	const nothing = { watch: null, modulesOnly: false };
	try {
		const text = await git(['cat-file', 'blob', `${commit}:${file}`], { directory });
		if (text.length > MAX_CONFIG_BYTES) return nothing;
		const { watch, build, runtime = 'fetch', environments = {} } = parseJsonc(text).value as Record<string, unknown>;
		const builds = build !== undefined || Object.values(environments as object).some((one) => 'build' in one);
		const isList = Array.isArray(watch) && watch.every((one) => typeof one === 'string');
		return { watch: isList ? watch : null, modulesOnly: runtime === 'fetch' && !builds };
	} catch {
		return nothing;
	}
}
