import { sha256 } from '#digest/digest.ts';
import { previewNames } from '#pipeline/branches.ts';
import { cancel } from '../builds/builds.ts';
import type { House } from '../house.ts';
import { Refusal } from '../ports.ts';

/** Environments that a branch or a pull request has for itself, and that end with it. */

const MAX_OPEN_BUILDS = 100;

/** The branch's plain name, unless that is another's: somebody else's branch, or an environment that people made. */
export async function previewOf(house: House, app: string, branch: string): Promise<string> {
	const { plain, own } = previewNames(app, branch, sha256(branch).slice('sha256:'.length));
	if (plain === own) return own;
	const of = { app, environment: plain };
	const [newest] = await house.state.builds.list({ ...of, limit: 1 });
	if (newest && newest.trust !== 'production' && newest.branch === branch) return plain;
	return newest || (await isMade(house, of)) ? own : plain;
}

/** Something runs there, or is to: what people prepared for it, secrets above all, is not for whoever names a branch. */
async function isMade(house: House, of: { app: string; environment: string }): Promise<boolean> {
	const [wants, secrets, env] = await Promise.all([
		house.state.deployments.wants(of),
		house.state.secrets.list(of),
		house.state.env.get(of.app, of.environment),
	]);
	return wants.some(({ removed }) => !removed) || secrets.length > 0 || Object.keys(env.values).length > 0;
}

/** What waits or runs for it ends, and then what serves. false: there was nothing of it. */
export async function endPreview(house: House, of: { app: string; environment: string; by: string }): Promise<boolean> {
	const { app, environment, by } = of;
	const open = await house.state.builds.list({ app, environment, which: 'open', limit: MAX_OPEN_BUILDS });
	for (const { id } of open) {
		try {
			await cancel(house, id, by);
		} catch (error) {
			// It has ended meanwhile.
			if (!(error instanceof Refusal && error.status === 409)) throw error;
		}
	}
	const wants = await house.state.deployments.wants({ app, environment });
	const serves = wants.some(({ removed }) => !removed);
	if (serves) {
		await house.driver.removeEnvironment(of);
		const entry = { at: house.clock.now(), by, action: 'environment.removed', app, environment };
		await house.state.audit.write({ ...entry, detail: {} });
	}
	return serves || open.length > 0;
}
