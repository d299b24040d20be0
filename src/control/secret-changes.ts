import type { z } from 'zod';
import type { Deployment, secretChange } from '#wire/api.ts';
import type { ReleaseSpec } from '#wire/region.ts';
import { deployAgain } from './env.ts';
import type { House } from './house.ts';
import { Refusal } from './ports.ts';
import { servingOf } from './status.ts';

/** `jibe secret set` and `rm`, and the end of versions that nothing needs any more. */

type Change = z.infer<typeof secretChange> & { app: string; by: string };
type Answer = { name: string; version: number; deploys: boolean };

/** `deploy` is null when no release that serves lists it, or when it only waits for the next deploy. */
export async function setSecret(
	house: House,
	{ app, environment, name, value, stage, revokeOld, by }: Change,
): Promise<{ answer: Answer; deploy: (() => Promise<{ deployment: Deployment; already: boolean }>) | null }> {
	const version = await house.secrets.set({ app, environment, name, value, by, revokesOlder: revokeOld });
	const serving = stage ? null : servingOf(house, await livingWants(house, app, environment));
	const stored = serving === null ? null : await house.state.deployments.release(app, serving);
	const deploys = stored !== null && stored.config.secrets.includes(name);
	if (!deploys) await revokeReplaced(house, { app, environment });
	const answer = { name, version, deploys };
	return {
		answer,
		deploy: deploys ? () => deployAgain(house, { app, environment, by, why: `secret ${name} set`, serving: serving! }) : null,
	};
}

/** @throws Refusal while what serves needs it */
export async function removeSecret(house: House, of: { app: string; environment: string; name: string; by: string }): Promise<void> {
	const { app, environment, name, by } = of;
	const known = await house.state.secrets.list({ app, environment });
	if (!known.some((row) => row.name === name))
		throw new Refusal('unknown_secret', 404, `${app} has no secret ${name} in ${environment}`, '`jibe secret list` shows them');
	const users = await pinners(house, of, null);
	const pointed = users.filter(({ pointed: is }) => is);
	if (pointed.length > 0) {
		throw new Refusal(
			'secret_in_use',
			409,
			`v${pointed[0]!.spec.release} of ${app} runs with ${name}`,
			`take it out of "secrets" in jibe.json and deploy; then remove it`,
		);
	}
	await house.driver.discard({ app, environment, releases: users.map(({ spec }) => spec.release) });
	await house.state.secrets.revoke({ app, environment, name, below: null, removed: true, by });
	const left = await house.state.secrets.list({ app, environment });
	if (left.some((row) => row.name === name))
		throw new Refusal(
			'secret_in_use',
			409,
			`a release that is under way in ${environment} has ${name}`,
			'wait for it to end, then remove it again',
		);
}

/** Versions that are to end as soon as nothing serves with them: their warm instances go, then their values. */
export async function revokeReplaced(house: House, of: { app: string; environment: string } | null): Promise<void> {
	const rows = await house.state.secrets.list(of);
	for (const row of rows) {
		if (!row.revokesOlder || row.revokedAt !== null) continue;
		const { app, environment, name, version: below } = row;
		const older = rows.some(
			(one) => one.app === app && one.environment === environment && one.name === name && one.version < below && one.revokedAt === null,
		);
		if (!older) continue;
		const users = await pinners(house, { app, environment, name }, below);
		if (users.some(({ pointed }) => pointed)) continue;
		await house.driver.discard({ app, environment, releases: users.map(({ spec }) => spec.release) });
		const versions = await house.state.secrets.revoke({ app, environment, name, below, removed: false, by: row.by });
		if (versions.length > 0) house.log.info('secret.revoked', { app, environment, name, versions });
	}
}

/** Looks after each deployment, and now and then, for what a restart has interrupted. */
export function watchRevocations(house: House): { close(): void } {
	const look = (of: { app: string; environment: string } | null) => {
		revokeReplaced(house, of).catch((error: unknown) => house.log.warn('secret.not_revoked', { error }));
	};
	const unwatch = house.driver.watch(({ app, environment, endedAt }, { type }) => {
		if (type === 'deployment.state' && endedAt !== null) look({ app, environment });
	});
	const looking = house.clock.every(LOOK_EACH_MS, () => look(null));
	return {
		close() {
			unwatch();
			looking.cancel();
		},
	};
}

const LOOK_EACH_MS = 60_000;

/** Releases in run lists that pin the secret, in a version before `below`; `pointed`: requests may go to it, or are about to. */
async function pinners(
	house: House,
	{ app, environment, name }: { app: string; environment: string; name: string },
	below: number | null,
): Promise<{ spec: ReleaseSpec; pointed: boolean }[]> {
	const wants = await livingWants(house, app, environment);
	const numbers = new Set(wants.flatMap(({ run }) => run.map(({ release }) => release)));
	const specs = await house.state.deployments.releases(app, [...numbers]);
	return specs
		.filter(({ secrets }) => {
			const version = secrets?.[name];
			return version !== undefined && (below === null || version < below);
		})
		.map((spec) => ({ spec, pointed: wants.some(({ run }) => run.some(({ release, as }) => release === spec.release && as !== 'warm')) }));
}

async function livingWants(house: House, app: string, environment: string) {
	return (await house.state.deployments.wants({ app, environment })).filter((want) => !want.removed);
}
