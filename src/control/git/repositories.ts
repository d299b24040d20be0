import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { appName } from '#wire/names.ts';
import { Refusal } from '../ports.ts';
import { git, noGit } from './git.ts';

/** The bare repositories that control keeps: `<data>/git/<name>.git`, pushed to or mirrored. */

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

/** Each push leaves some files; builds that wait need commits that no branch names any more, but for days at most. */
const TIDY = {
	'gc.auto': '4000',
	'gc.autoPackLimit': '40',
	'gc.autoDetach': 'false',
	'gc.pruneExpire': '2.weeks.ago',
	'pack.threads': '1',
};
const TIDY_LIMIT_MS = 20 * 60_000;

export class Repositories {
	private readonly root: string;
	private readonly tidying = new Set<string>();

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
		return join(this.root, `${name}.git`);
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

	/** Many small files become one, when there are many; what nothing names goes after two weeks. Once at a time. */
	async tidy(name: string): Promise<void> {
		if (this.tidying.has(name)) return;
		this.tidying.add(name);
		try {
			await git(['gc', '--auto', '--quiet'], { directory: this.directory(name), config: TIDY, limitMs: TIDY_LIMIT_MS });
		} finally {
			this.tidying.delete(name);
		}
	}

	async remove(name: string): Promise<void> {
		await rm(this.directory(name), { recursive: true, force: true });
	}
}
