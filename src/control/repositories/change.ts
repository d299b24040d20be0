import { generateKeyPairSync, randomBytes } from 'node:crypto';
import type { RepositoryRow } from '#state/repositories.ts';
import { branchRules, type RepositoryAnswer, type RepositoryChange, type RepositoryView } from '#wire/repositories.ts';
import type { Caller } from '../access.ts';
import { sees } from '../access.ts';
import type { House } from '../house.ts';
import { Refusal } from '../ports.ts';
import { readCloneUrl } from './clone-url.ts';
import { deployKeyOf, newDeployKey } from './deploy-key.ts';

/** `jibe repo add` and what else there is to a repository's row. */

const SECRET_BYTES = 24;

/** Makes it or changes it; what is absent stays, or gets its default. @throws Refusal */
export async function changeRepository(house: House, name: string, change: RepositoryChange, caller: Caller): Promise<RepositoryAnswer> {
	const old = await house.state.repositories.get(name);
	const url = change.url === undefined ? (old?.url ?? null) : change.url;
	check(change, url, old);
	await refuseOthersApps(house, name, change);
	// Before the row: whoever keeps opened ones sees by the row's version that there are others.
	const made = await setSecrets(house, { name, forge: change.forge, url, version: old?.version ?? 0 }, change, caller.by);
	const written = await house.state.repositories.put({
		name,
		forge: change.forge,
		url,
		api: change.api === undefined ? (old?.api ?? null) : change.api,
		apps: change.apps ?? old?.apps ?? [{ app: name, directory: '' }],
		rules: change.rules ?? old?.rules ?? branchRules.parse({}),
		by: caller.by,
	});
	const [view] = await viewsOf(house, [written]);
	return { repository: view!, ...made };
}

function check({ forge }: RepositoryChange, url: string | null, old: RepositoryRow | null): void {
	if (forge === 'push' && url !== null) throw new Refusal('url_not_needed', 422, 'a repository that is pushed here has no URL of another');
	if (forge !== 'push' && url === null)
		throw new Refusal('url_missing', 422, `where is it cloned from?`, 'jibe repo add NAME https://host/team/notes.git');
	if (old && (old.forge === 'push') !== (forge === 'push'))
		throw new Refusal(
			'repository_exists',
			409,
			`${old.name} is ${old.forge === 'push' ? 'pushed here' : `a mirror of ${old.url}`}`,
			`choose another name, or "jibe repo remove ${old.name}"`,
		);
	if (url !== null) readCloneUrl(url);
}

/** Two repositories that deploy one app would take turns with it. */
async function refuseOthersApps(house: House, name: string, { apps }: RepositoryChange): Promise<void> {
	const wanted = new Set((apps ?? [{ app: name }]).map(({ app }) => app));
	for (const other of await house.state.repositories.list()) {
		const shared = other.name === name ? undefined : other.apps.find(({ app }) => wanted.has(app));
		if (shared)
			throw new Refusal(
				'app_elsewhere',
				409,
				`${shared.app} is deployed from the repository ${other.name}`,
				`"jibe repo remove ${other.name}" ends that`,
			);
	}
}

type Named = Pick<RepositoryRow, 'name' | 'forge' | 'url' | 'version'>;

async function setSecrets(house: House, row: Named, change: RepositoryChange, by: string): Promise<Omit<RepositoryAnswer, 'repository'>> {
	const { repositorySecrets: secrets } = house;
	const there = new Set(await secrets.names(row.name));
	const set = (name: Parameters<typeof secrets.set>[1], value: string | null) => secrets.set(row.name, name, value, by);
	if (row.forge === 'push') return { webhookSecret: null, deployKey: null };
	let webhookSecret: string | null = null;
	if (change.webhookSecret !== undefined) await set('webhook', change.webhookSecret);
	else if (!there.has('webhook')) await set('webhook', (webhookSecret = randomBytes(SECRET_BYTES).toString('base64url')));
	if (change.token !== undefined) await set('token', change.token);
	if (change.cloneToken !== undefined) await set('clone', change.cloneToken);
	const deployKey = readCloneUrl(row.url!).protocol === 'ssh' ? await setDeployKey(house, row, change, there.has('deploy_key'), by) : null;
	return { webhookSecret, deployKey };
}

async function setDeployKey(house: House, row: Named, change: RepositoryChange, there: boolean, by: string): Promise<string | null> {
	const comment = `jibe-${row.name}`;
	if (change.deployKey !== undefined) {
		await house.repositorySecrets.set(row.name, 'deploy_key', change.deployKey, by);
		return null;
	}
	if (there) return deployKeyOf((await house.repositorySecrets.open(row)).deploy_key ?? '');
	const made = newDeployKey(generateKeyPairSync('ed25519').privateKey, comment);
	await house.repositorySecrets.set(row.name, 'deploy_key', made.privateKey, by);
	return made.publicKey;
}

export async function viewsOf(house: House, rows: readonly RepositoryRow[]): Promise<RepositoryView[]> {
	const last = await house.state.deliveries.last();
	return Promise.all(
		rows.map(async ({ version: _version, ...row }) => ({
			...row,
			hook: row.forge === 'push' ? null : `/hooks/${row.forge}/${row.name}`,
			secrets: await house.repositorySecrets.names(row.name),
			last: last.get(row.name) ?? null,
		})),
	);
}

/** A token for some apps sees the repositories of those. */
export function seesRepository({ token }: Caller, { apps }: Pick<RepositoryRow, 'apps'>): boolean {
	return apps.some(({ app }) => sees(token, app));
}
