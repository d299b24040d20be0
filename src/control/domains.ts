import { LOOPBACK_NAMES } from './access.ts';
import type { House } from './house.ts';
import { namedBy } from './hub.ts';
import { Refusal } from './ports.ts';

/** A domain belongs to the app that first claimed it, for as long as a release of it that is wanted somewhere names it. */

let queue: Promise<unknown> = Promise.resolve();

/** Runs `deploy` when all `domains` are free or the app's own; one at a time, so that two can't claim the same at once. */
export async function checkDomains<T>(house: House, app: string, domains: readonly string[], deploy: () => Promise<T>): Promise<T> {
	if (domains.length === 0) return deploy();
	const reserved = domains.find((domain) => LOOPBACK_NAMES.includes(domain) || domain === 'localhost' || domain.endsWith('.localhost'));
	if (reserved) throw new Refusal('domain_reserved', 422, `${reserved} can't be an app's domain: it always means this machine`);
	const claim = async () => {
		const owners = await domainOwners(house);
		for (const domain of domains) {
			const owner = owners.get(domain);
			if (owner === undefined || owner === app) continue;
			throw new Refusal(
				'domain_taken',
				409,
				`${domain} belongs to the app ${owner}`,
				`take it out of jibe.json of ${owner} and deploy that first`,
			);
		}
		return deploy();
	};
	// Also those of other controls wait: only then is the next one here let try.
	const turn = queue.then(() => house.state.alone(claim));
	queue = turn.catch(() => {});
	return turn;
}

async function domainOwners({ state }: House): Promise<Map<string, string>> {
	const wants = (await state.deployments.wants({})).filter((want) => !want.removed);
	const owners = new Map<string, string>();
	for (const [app, theirs] of Map.groupBy(wants, (want) => want.app)) {
		const numbers = [...new Set(theirs.flatMap(namedBy))];
		for (const release of await state.deployments.releases(app, numbers)) for (const domain of release.domains) owners.set(domain, app);
	}
	return owners;
}
