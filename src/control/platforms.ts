import type { Digest } from '#digest/digest.ts';
import type { DeployRequest } from '#wire/api.ts';
import { platform as platformName } from '#wire/builds.ts';
import type { House } from './house.ts';
import type { KnownTree } from './manifests.ts';
import { Refusal } from './ports.ts';

/** What can't be the same everywhere: native code is of one platform, and so is a release that holds some. */

/** What a build is keyed by when nobody says: the servers' platform, where there are builders of others that could take it. */
export function platformToBuild(house: House): string | null {
	const [wanted, ...others] = platformsOf(house, 'all');
	if (wanted === undefined || others.length > 0 || !platformName.safeParse(wanted).success) return null;
	const seen = house.builds.platforms();
	return seen.has(wanted) && seen.size > 1 ? wanted : null;
}

/** @throws Refusal 409 platform_differs when a server of its regions could not run it */
export async function checkPlatform(
	house: House,
	{ config }: Pick<DeployRequest, 'config'>,
	vendor: KnownTree | null,
	builtOn: string | null,
): Promise<void> {
	const wanted = platformsOf(house, config.regions);
	if (wanted.length === 0) return;
	const made = config.runtime === 'process' && config.build !== undefined ? builtOn : await nativeOf(house, vendor);
	if (made === null || wanted.every((one) => suits(made, one))) return;
	const servers = wanted.join(' and ');
	const what = config.runtime === 'process' ? 'what its steps made is' : 'its dependencies have native code, which is';
	if (wanted.length > 1)
		throw new Refusal(
			'platforms_differ',
			422,
			`${what} for ${made}, and its regions have servers of ${servers}: a release holds one platform`,
			'name in "regions" those of one platform, or give the others an app of their own',
		);
	const builders = house.builds.platforms();
	const hint = builders.has(servers)
		? '"jibe deploy --remote" makes it on a builder of that platform'
		: `no builder here is ${servers}: add a server of that platform as a builder ("jibe server add --roles builder")`;
	throw new Refusal('platform_differs', 409, `${what} for ${made}, and the servers are ${servers}`, hint, {
		made,
		wanted: servers,
		builder: builders.has(servers),
	});
}

function platformsOf({ hub }: House, regions: DeployRequest['config']['regions']): string[] {
	const concerned = hub.servers().filter(({ region }) => regions === 'all' || regions.includes(region));
	return [...new Set(concerned.flatMap(({ state }) => (state === null ? [] : [state.platform])))].sort();
}

/** `linux-x64` runs on both, as far as anybody said. */
function suits(made: string, wanted: string): boolean {
	return made === wanted || wanted.startsWith(`${made}-`) || made.startsWith(`${wanted}-`);
}

const ABOUT = 'vendor.json';
const MAX_KNOWN = 1_000;
const known = new Map<Digest, string | null>();

/** As whoever packed the dependencies says; null: the same everywhere. */
async function nativeOf({ store }: House, vendor: KnownTree | null): Promise<string | null> {
	const entry = vendor?.manifest.get(ABOUT);
	if (entry === undefined || 'link' in entry) return null;
	const [about] = entry;
	const before = known.get(about);
	if (before !== undefined) return before;
	const { platform } = JSON.parse((await store.read(about)).toString()) as { platform?: { os: string; cpu: string; libc: string } | null };
	const name = platform ? [platform.os, platform.cpu, ...(LIBC.has(platform.libc) ? [platform.libc] : [])].join('-') : null;
	if (known.size >= MAX_KNOWN) known.clear();
	known.set(about, name);
	return name;
}

const LIBC: ReadonlySet<string> = new Set(['glibc', 'musl']);
