import { createPrivateKey } from 'node:crypto';
import type { Rollout } from '#rollout/rollout.ts';
import { publicKeyOf, spkiOf } from '#wire/certificate.ts';
import { readCredential } from '#wire/credential.ts';
import { isProven } from '#wire/join.ts';
import { instancesOn } from '#wire/region.ts';
import { sealSecrets, secretsText, type SecretsAnswer, type SecretsRequest } from '#wire/secrets.ts';
import type { House } from './house.ts';
import { Refusal } from './ports.ts';

/** A release's secrets for the agent of a server that it is placed on, sealed so that nobody on the way reads them. @throws Refusal */
export async function handOver(house: House, asked: SecretsRequest): Promise<SecretsAnswer> {
	const { installation, state, log } = house;
	const { server, app, environment, release } = asked;
	const text = secretsText(installation.id, asked);
	const regions = regionsOf(house, asked, text);
	const wants = await state.deployments.wants({ app, environment });
	const placed = wants.some(
		(want) =>
			!want.removed && regions.includes(want.region) && want.run.some((run) => run.release === release && instancesOn(server, run) > 0),
	);
	if (!placed && !(await runsTask(house, asked, regions)))
		throw new Refusal('not_placed', 403, `v${release} of ${app} is not placed on ${server}: it gets no secrets of it`);
	const [spec] = await state.deployments.releases(app, [release]);
	const secrets = await house.secrets.opened({ app, environment }, spec?.secrets ?? {});
	log.info('secrets.handed_over', { server, app, environment, release, secrets: secrets.map(({ name, version }) => `${name} ${version}`) });
	return sealSecrets(text, asked.key, secrets, createPrivateKey(installation.privatePem));
}

/** It was given something to run beside the release, before that is placed anywhere. */
async function runsTask(
	{ state }: House,
	{ server, app, environment, release }: SecretsRequest,
	regions: readonly string[],
): Promise<boolean> {
	const open = await state.deployments.open();
	return open.some(({ deployment, rollout }) => {
		const at = (rollout as Rollout | null)?.task?.at;
		const same = deployment.app === app && deployment.environment === environment && deployment.release === release;
		return same && at?.server === server && regions.includes(at.region);
	});
}

/** The regions of the server that asks, once it has shown that it is that server. @throws Refusal */
function regionsOf({ roster, installation, clock }: House, asked: SecretsRequest, text: string): readonly string[] {
	const row = roster.named(asked.server);
	if (row) {
		if (row.conflict === null && row.roles.includes('agent') && isSignedBy(row.spki, text, asked.signed)) return [row.region];
		throw new Refusal('bad_proof', 403, `the request for secrets is not signed by the key of the server ${asked.server}`);
	}
	const claims = asked.credential === null ? null : readCredential(asked.credential, installation.publicPem, clock.now());
	// A joined server's credential is worth nothing here: depots of other servers have seen it.
	const local = claims?.role === 'agent' && claims.server === asked.server && claims.regions.every((region) => roster.isLocal(region));
	if (local && claims) return claims.regions;
	throw new Refusal('bad_credential', 403, `no agent of this installation is the server ${asked.server}, as the request for secrets says`);
}

function isSignedBy(spki: string, text: string, signed: SecretsRequest['signed']): boolean {
	if (!signed) return false;
	try {
		const key = publicKeyOf(signed.publicKey);
		return spkiOf(key) === spki && isProven(text, key, signed.proof);
	} catch {
		return false; // not a key
	}
}
