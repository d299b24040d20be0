import { repositoryAnswer, type BranchRules, type RepositoryAnswer, type RepositoryChange } from '#wire/repositories.ts';
import type { Arguments } from './arguments.ts';
import { EXIT, usage, type Exit } from './failure.ts';
import { readHidden } from './hidden.ts';
import { done } from './output.ts';
import { ask, findServer } from './server.ts';
import type { Invocation, Verb } from './verbs.ts';

const FORGES = ['github', 'gitlab', 'gitea', 'generic'] as const;
const SECRETS = { token: 'token', clone: 'cloneToken', webhook: 'webhookSecret', 'deploy-key': 'deployKey' } as const;
const NONE = 'none';

export const verb: Verb = {
	syntax: {
		options: {
			forge: 'value',
			production: 'value',
			hotfix: 'value',
			others: 'value',
			forks: 'value',
			contains: 'list',
			api: 'value',
			secret: 'value',
		},
		positionals: ['NAME', 'URL'],
		optional: 1,
	},
	async run({ args, out, data }: Invocation): Promise<Exit> {
		const [name = '', url] = args.positionals;
		const server = findServer(data);
		const path = `/api/v1/repositories/${encodeURIComponent(name)}`;
		const known = await find(server, name);
		if (!known && url === undefined) throw usage(`where is ${name} cloned from?`, `jibe repo add ${name} https://host/team/${name}.git`);
		const forge = forgeOf(args.value('forge'), url, known?.forge);
		const rules = rulesOf(args, known?.rules);
		const apps = args.list('contains')?.map(appOf);
		const api = args.value('api');
		const json: RepositoryChange = {
			forge,
			...(url === undefined ? {} : { url }),
			...(rules ? { rules } : {}),
			...(apps ? { apps } : {}),
			...(api === null ? {} : { api: api === NONE ? null : api }),
			...(await secretOf(args.value('secret'), name, out)),
		};
		const answer = repositoryAnswer.parse(await ask(server, { method: 'PUT', path, json }));
		out.result(answer, words(answer, known !== null, server.url));
		return EXIT.done;
	},
};

type Known = RepositoryAnswer['repository'];

async function find(server: ReturnType<typeof findServer>, name: string): Promise<Known | null> {
	const { repositories } = (await ask(server, { path: '/api/v1/repositories' })) as { repositories: Known[] };
	return repositories.find((one) => one.name === name) ?? null;
}

/** Said, known, or told by the host's name. */
function forgeOf(said: string | null, url: string | undefined, known: Known['forge'] | undefined): Known['forge'] {
	if (said !== null) {
		const forge = FORGES.find((one) => one === said);
		if (!forge) throw usage(`--forge takes one of: ${FORGES.join(', ')}`);
		return forge;
	}
	if (known) return known;
	const host = /(?:@|\/\/)([\w.-]+)/.exec(url ?? '')?.[1] ?? '';
	if (/github/.test(host)) return 'github';
	if (/gitlab/.test(host)) return 'gitlab';
	if (/gitea|forgejo|codeberg/.test(host)) return 'gitea';
	throw usage(`what is ${host || 'it'}?`, `say so with --forge: ${FORGES.join(', ')}`);
}

function rulesOf(args: Arguments, known: BranchRules | undefined): BranchRules | null {
	const said = ['production', 'hotfix', 'others', 'forks'].some((name) => args.value(name) !== null);
	if (!said) return null;
	const { production, hotfix, others, forks } = known ?? { production: 'main', hotfix: 'hotfix/', others: 'preview', forks: 'ask' };
	const given = (name: string, otherwise: string | null) => {
		const value = args.value(name);
		return value === null ? otherwise : value === NONE ? null : value;
	};
	return {
		production: given('production', production),
		hotfix: given('hotfix', hotfix),
		others: choice(args, 'others', ['preview', 'ignore'] as const, others),
		forks: choice(args, 'forks', ['ask', 'ignore'] as const, forks),
	};
}

function choice<T extends string>(args: Arguments, name: string, of: readonly T[], otherwise: T): T {
	const value = args.value(name);
	const found = of.find((one) => one === value);
	if (value !== null && found === undefined) throw usage(`--${name} takes one of: ${of.join(', ')}`);
	return found ?? otherwise;
}

/** `shop=services/shop`, or `shop` for the repository's root. */
function appOf(text: string): { app: string; directory: string } {
	const [app = '', directory = ''] = text.split('=', 2);
	return { app, directory };
}

async function secretOf(which: string | null, name: string, out: Invocation['out']): Promise<Partial<RepositoryChange>> {
	if (which === null) return {};
	const key = SECRETS[which as keyof typeof SECRETS];
	if (!key) throw usage(`--secret takes one of: ${Object.keys(SECRETS).join(', ')}`, 'its value comes from standard input');
	return { [key]: await readHidden(`The ${which} for ${name}; it is not shown:`, out) };
}

function words({ repository, webhookSecret, deployKey }: RepositoryAnswer, changed: boolean, control: URL): string[] {
	const { name, url, apps, hook, rules } = repository;
	const lines = [done(`${changed ? 'Changed' : 'Added'} ${name}`, url ?? 'pushed here')];
	lines.push(`  apps      ${apps.map(({ app, directory }) => (directory === '' ? app : `${app} (${directory})`)).join(', ')}`);
	lines.push(`  branches  ${branches(rules)}`);
	if (hook !== null) lines.push(`  webhook   ${new URL(hook, control).href}   (pushes and pull requests, as JSON)`);
	if (webhookSecret !== null) lines.push(`  secret    ${webhookSecret}   (shown this once)`);
	if (deployKey !== null) lines.push(`  deploy key, to be added there, for reading only:`, `  ${deployKey}`);
	return lines;
}

function branches({ production, hotfix, others, forks }: BranchRules): string {
	return [
		production === null ? 'none goes to production' : `${production} → production`,
		...(hotfix === null ? [] : [`${hotfix}… → production, first`]),
		others === 'preview' ? 'others → a preview each' : 'others → nothing',
		forks === 'ask' ? 'forks → a preview when a deployer says so' : 'forks → nothing',
	].join(', ');
}
