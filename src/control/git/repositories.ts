import { existsSync, renameSync } from 'node:fs';
import { mkdir, mkdtemp, rename, rm, utimes, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { directoriesIn, unused, type UnusedLimits } from '#store/least-used.ts';
import { systemClock } from '#clock/clock.ts';
import { randomId } from '#digest/digest.ts';
import { appName } from '#wire/names.ts';
import { Refusal } from '../ports.ts';
import { git, noGit } from './git.ts';

/** The bare repositories that control keeps: `<data>/git/<name>.git`, pushed to or mirrored. */

const SUFFIX = '.git';
const DIRECTORY_MODE = 0o700;
/** What leaves a commit as files is what a checkout has: what it says of archives doesn't hold here. */
const ATTRIBUTES = '* -export-ignore -export-subst\n';

/** Branches move together, or not at all, and only once control has said so: it is asked when git holds all of their locks. */
const ASKING_HOOK = `#!/bin/sh
[ "$1" = prepared ] || exit 0
echo prepared >&3 && read -r answer <&3 && [ "$answer" = go ]
`;

/** Where the one hook lies that control itself has; nothing runs it that was not told to. */
export function hooksOf(directory: string): string {
	return join(directory, 'jibe-hooks');
}

/** Each push and each fetch leave a pack; builds that wait need commits that no branch names any more, but for days at most. */
const TIDY = {
	'gc.auto': '4000',
	'gc.autoDetach': 'false',
	'gc.pruneExpire': '2.weeks.ago',
	'pack.threads': '1',
};
const TIDY_LIMIT_MS = 20 * 60_000;
const MAX_PACKS = 40;

/** What is pushed here is in the store, what is mirrored is elsewhere: on this disk are copies. */
const COPIES: UnusedLimits = { maxBytes: 20 * 1024 ** 3, maxAgeMs: 30 * 24 * 3_600_000 };
/** What a control that was killed had begun. */
const DRAFT_KEPT_MS = 24 * 3_600_000;

export class Repositories {
	private readonly root: string;
	private readonly tidying = new Set<string>();
	/** How many work in it now. */
	private readonly uses = new Map<string, number>();

	/** `data`: control's directory; absent: this control keeps no repositories. */
	constructor(data: string | undefined) {
		this.root = data === undefined ? '' : join(data, 'git');
	}

	/** Where it is or would be. @throws Refusal 400 bad_repository, 501 git_missing */
	directory(name: string): string {
		if (this.root === '') throw noGit();
		if (!appName.safeParse(name).success)
			throw new Refusal(
				'bad_repository',
				400,
				`${JSON.stringify(name.slice(0, 100))} is no name of a repository`,
				'it is made of a-z, 0-9 and single hyphens',
			);
		return join(this.root, `${name}${SUFFIX}`);
	}

	exists(name: string): boolean {
		return existsSync(this.directory(name));
	}

	/** Where it is, made when there is none. Whole or not there: it is made beside its place. */
	async make(name: string): Promise<string> {
		const directory = this.directory(name);
		if (existsSync(directory)) return directory;
		await mkdir(this.root, { recursive: true, mode: DIRECTORY_MODE });
		const draft = await mkdtemp(join(this.root, '.new-'));
		try {
			await git(['init', '--quiet', '--bare', '--template=', '--initial-branch=main', draft], { directory: draft });
			await mkdir(join(draft, 'info'), { recursive: true });
			await writeFile(join(draft, 'info', 'attributes'), ATTRIBUTES);
			await mkdir(hooksOf(draft));
			await writeFile(join(hooksOf(draft), 'reference-transaction'), ASKING_HOOK, { mode: DIRECTORY_MODE });
			await rename(draft, directory);
		} catch (error) {
			await rm(draft, { recursive: true, force: true });
			// Another push made it meanwhile.
			if (!existsSync(directory)) throw error;
		}
		return directory;
	}

	/** While it lasts this copy is not cleaned away; then it is one that was just used. */
	async using<T>(name: string, work: () => Promise<T>): Promise<T> {
		const directory = this.directory(name);
		this.uses.set(name, (this.uses.get(name) ?? 0) + 1);
		try {
			return await work();
		} finally {
			const now = systemClock.now() / 1000;
			await utimes(directory, now, now).catch(unlessGone);
			const others = this.uses.get(name)! - 1;
			if (others > 0) this.uses.set(name, others);
			else this.uses.delete(name);
		}
	}

	/** Copies that nobody used for long, or that are too many, go; none that is in use. Answers their names. */
	async clean(now: number, limits: UnusedLimits = COPIES): Promise<string[]> {
		if (this.root === '') return [];
		const all = await directoriesIn(this.root);
		const drafts = all.filter(({ path, usedAt }) => basename(path).startsWith('.') && now - usedAt > DRAFT_KEPT_MS);
		for (const { path } of drafts) await rm(path, { recursive: true, force: true });
		const copies = all.filter(({ path }) => path.endsWith(SUFFIX) && !basename(path).startsWith('.'));
		const gone: string[] = [];
		for (const { path } of await unused(copies, now, limits)) {
			const name = basename(path, SUFFIX);
			if (this.uses.has(name) || this.tidying.has(name)) continue;
			// At once, so that whoever comes next finds either all of it or nothing.
			const away = `${join(this.root, `.old-${name}-`)}${randomId()}`;
			renameSync(path, away);
			gone.push(name);
			await rm(away, { recursive: true, force: true });
		}
		return gone;
	}

	/** Many packs become one; what nothing names goes after two weeks. Once at a time. `partial`: old contents are not here. */
	async tidy(name: string, { partial = false, maxPacks = MAX_PACKS } = {}): Promise<void> {
		if (this.tidying.has(name)) return;
		this.tidying.add(name);
		try {
			const config = { ...TIDY, 'gc.autoPackLimit': String(maxPacks), ...(partial ? { 'remote.origin.promisor': 'true' } : {}) };
			await git(['gc', '--auto', '--quiet'], { directory: this.directory(name), config, limitMs: TIDY_LIMIT_MS, nice: true });
		} finally {
			this.tidying.delete(name);
		}
	}

	async remove(name: string): Promise<void> {
		await rm(this.directory(name), { recursive: true, force: true });
	}
}

function unlessGone(error: NodeJS.ErrnoException): void {
	if (error.code !== 'ENOENT') throw error;
}
