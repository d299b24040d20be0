import { z } from 'zod';
import { appName, environmentName } from './names.ts';

/** Repositories that pushes come from: by a forge's webhooks, or by `git push` to Jibe itself. */

/** `generic`: any other server of git, which signs as docs/pipeline.md says. `push`: people push it here. */
export const forge = z.enum(['github', 'gitlab', 'gitea', 'generic', 'push']);
export type Forge = z.infer<typeof forge>;

/** A directory's name, too: `<data>/git/<name>.git`. */
export const repositoryName = appName;

/** As git allows them, without what means something to git's own commands. */
export const branchName = z
	.string()
	.min(1)
	.max(200)
	.regex(/^(?![-/.])(?!.*(\.\.|\/\/|\/\.|@\{|\.lock(\/|$)))[^\0-\x20\x7f~^:?*[\\]+(?<![/.])$/, "this can't be the name of a branch");

/** Which branch goes where. */
export const branchRules = z.strictObject({
	/** What is pushed there goes to production; null: nothing does. */
	production: branchName.nullable().default('main'),
	/** Branches whose names begin with this go to production, before everything else that waits; null: none. */
	hotfix: z.string().max(100).nullable().default('hotfix/'),
	/** All the others: an environment of their own each, which ends with them, or nothing. */
	others: z.enum(['preview', 'ignore']).default('preview'),
	/** Pull requests from forks: `ask`: built once a deployer has said so, commit by commit. */
	forks: z.enum(['ask', 'ignore']).default('ask'),
});
export type BranchRules = z.infer<typeof branchRules>;

const MAX_APPS = 100;
/** '' is its root. Never absolute, and never out of the repository. */
export const directoryInside = z
	.string()
	.max(500)
	.regex(/^(?!\/)(?!.*(^|\/)\.{1,2}(\/|$))(?!.*\/\/)[^\0\\]*(?<!\/)$/, 'a directory inside the repository, such as services/shop');

export const repositoryApp = z.strictObject({ app: appName, directory: directoryInside.default('') });
const repositoryApps = z
	.array(repositoryApp)
	.min(1)
	.max(MAX_APPS)
	.refine((apps) => new Set(apps.map(({ app }) => app)).size === apps.length, 'each app once');

/** `https://host/path.git`, `ssh://git@host/path.git` or `git@host:path.git`, without a password. */
export const cloneUrl = z
	.string()
	.max(1_000)
	.refine(isCloneUrl, 'https://host/path.git, ssh://git@host/path.git or git@host:path.git, without a password');

export function isCloneUrl(text: string): boolean {
	if (/^[\w.-]+@[\w.-]+:(?!\/\/)[^\0-\x20-][^\0-\x20]*$/.test(text)) return true;
	if (!/^(https?|ssh):\/\/[^\0-\x20]+$/.test(text) || !URL.canParse(text)) return false;
	const { protocol, username, password, hostname, pathname, hash, search } = new URL(text);
	if (password !== '' || hash !== '' || search !== '' || hostname === '' || hostname.startsWith('-') || pathname.length < 2) return false;
	return protocol === 'ssh:' ? !username.startsWith('-') : username === '';
}

export const repository = z.object({
	name: repositoryName,
	forge,
	/** Null where it is pushed here. */
	url: cloneUrl.nullable(),
	/** Of the forge's API, where it is not what the URL says: `https://forge.example.com/api/v1`. */
	api: z.url({ protocol: /^https?$/ }).nullable(),
	apps: repositoryApps,
	rules: branchRules,
	createdAt: z.number(),
	changedAt: z.number(),
	by: z.string(),
});
export type Repository = z.infer<typeof repository>;

/** What of a repository is a secret. `clone` is the password of an https URL. */
export const REPOSITORY_SECRETS = ['webhook', 'deploy_key', 'token', 'clone'] as const;
export type RepositorySecret = (typeof REPOSITORY_SECRETS)[number];

const secretValue = z.string().min(8).max(16_384);

/** `PUT /api/v1/repositories/{name}`. What is absent stays as it is, or gets its default with a new one. */
export const repositoryChange = z.strictObject({
	forge,
	url: cloneUrl.nullable().optional(),
	api: z
		.url({ protocol: /^https?$/ })
		.nullable()
		.optional(),
	apps: repositoryApps.optional(),
	rules: branchRules.optional(),
	/** What the forge signs with. Made, and answered, with a new one. */
	webhookSecret: secretValue.optional(),
	/** OpenSSH's private key for an ssh URL. Made with a new one; the answer has the public half. */
	deployKey: secretValue.optional(),
	/** For commit statuses; for an https URL it clones, too, unless there is a `cloneToken`. Null: none any more. */
	token: secretValue.nullable().optional(),
	cloneToken: secretValue.nullable().optional(),
});
export type RepositoryChange = z.infer<typeof repositoryChange>;

export const repositoryView = repository.extend({
	/** Where the forge is to send its webhooks, below control's own address: `/hooks/github/notes`. Null where it is pushed here. */
	hook: z.string().nullable(),
	secrets: z.array(z.enum(REPOSITORY_SECRETS)),
	/** The last that was heard of it. */
	last: z
		.object({ at: z.number(), event: z.string(), ref: z.string().nullable(), state: z.string(), outcome: z.string().nullable() })
		.nullable(),
});
export type RepositoryView = z.infer<typeof repositoryView>;

export const repositoriesAnswer = z.object({ repositories: z.array(repositoryView) });

export const repositoryAnswer = z.object({
	repository: repositoryView,
	/** Shown once: what to give to the forge. Null where it was there before. */
	webhookSecret: z.string().nullable(),
	/** `ssh-ed25519 …`, to be added to the forge as a deploy key that may only read; null without an ssh URL. */
	deployKey: z.string().nullable(),
});
export type RepositoryAnswer = z.infer<typeof repositoryAnswer>;

/** A pull request from a fork, which builds only when a deployer has said so. */
export const pullRequest = z.object({
	repository: repositoryName,
	number: z.int().positive(),
	title: z.string(),
	author: z.string(),
	/** `somebody/notes`. */
	from: z.string(),
	branch: z.string(),
	commit: z.string(),
	state: z.enum(['open', 'closed']),
	/** The commit that a deployer looked at and let build; another one asks anew. */
	approved: z.object({ commit: z.string(), by: z.string(), at: z.number() }).nullable(),
	seenAt: z.number(),
});
export type PullRequest = z.infer<typeof pullRequest>;
export const pullRequestsAnswer = z.object({ pullRequests: z.array(pullRequest) });
/** The commit, so that nothing is approved that was pushed after one looked. */
export const approval = z.strictObject({ commit: z.string().regex(/^[0-9a-f]{7,64}$/) });

/** What control may connect to on somebody's behalf although it is a private address. */
export const outboundAddress = z
	.string()
	.max(255)
	.regex(/^(\[[0-9a-fA-F:.]+\]|[\w.-]+)(:\d{1,5})?$|^[0-9a-fA-F:.]+\/\d{1,3}$/, 'a host, host:port, or a range such as 10.1.0.0/16');
export const outboundChange = z.strictObject({ address: outboundAddress });
export const outboundAnswer = z.object({ allowed: z.array(z.object({ address: z.string(), by: z.string(), at: z.number() })) });

/** `POST /hooks/generic` and, as Alertmanager sends it, what comes of `/hooks/alertmanager`. */
export const verdictHook = z.strictObject({
	event: z.literal('verdict'),
	app: appName,
	environment: environmentName.default('production'),
	/** fail: what is under way or watched swings back. pass: its watch ends, well. */
	verdict: z.enum(['pass', 'fail']),
	/** For people: what was seen. */
	reason: z.string().max(500),
	/** When it began, wall ms: what was deployed after that is not blamed for it. */
	since: z.number().optional(),
	/** Swings back what is no longer watched, too: needs a token that may deploy. */
	rollback: z.boolean().default(false),
});
export type VerdictHook = z.infer<typeof verdictHook>;

export const pushHook = z.strictObject({
	event: z.literal('push'),
	/** `refs/heads/main`. */
	ref: z.string().max(300),
	commit: z.string().max(64).optional(),
});
