/** Which branch goes where, as the rules of its repository say. */
export interface BranchRules {
	/** null: no branch goes to production. */
	production: string | null;
	/** What the names of branches begin with that go to production before everything else; null: none do. */
	hotfix: string | null;
	/** All the others: an environment each, or nothing. */
	others: 'preview' | 'ignore';
}

export type BranchTarget = 'production' | 'hotfix' | 'preview';

/** Where a branch's pushes go; null: nowhere. */
export function targetOf(branch: string, { production, hotfix, others }: BranchRules): BranchTarget | null {
	if (branch === production) return 'production';
	if (hotfix !== null && hotfix !== '' && branch.startsWith(hotfix) && branch.length > hotfix.length) return 'hotfix';
	return others === 'preview' ? 'preview' : null;
}

/** A label of a host name: `<environment>--<app>`. */
const MAX_LABEL_CHARS = 63;
const MAX_NAME_CHARS = 40;
const HASH_CHARS = 6;
/** Names that mean something else; a branch that is called so gets a hash behind it. */
const TAKEN = ['production', 'preview'];

/**
 * The environment that a branch of an app has for itself: its plain name where that is short enough, and another that no
 * branch of another name has, for when the plain one is somebody else's. `hash`: hex digits made of the branch's whole name.
 */
export function previewNames(app: string, branch: string, hash: string): { plain: string; own: string } {
	const slug = branch
		.toLowerCase()
		.replace(/[^a-z0-9]+/g, '-')
		.replace(/^-|-$/g, '');
	const most = Math.min(MAX_NAME_CHARS, MAX_LABEL_CHARS - 2 - app.length);
	const cut = slug.slice(0, most - HASH_CHARS - 1).replace(/-$/, '');
	const own = `${cut === '' ? 'branch' : cut}-${hash.slice(0, HASH_CHARS)}`;
	const plain = slug === '' || slug.length > most || TAKEN.includes(slug) ? own : slug;
	return { plain, own };
}
