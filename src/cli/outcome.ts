import { dirname } from 'node:path';
import type { Deployment, DeploymentState } from '#wire/api.ts';
import type { Outcome } from './follow.ts';
import { count, done, seconds, type Output } from './output.ts';

/** What became of it, for a person: what stays on the screen. */
export function tellOutcome(out: Output, { deployment, already }: Outcome, totalMs: number): void {
	const { canary, state } = deployment;
	if (already && state === 'Deployed') {
		out.say(done(`Already live`, `v${deployment.release} in ${count(deployment.regions.length, 'region')}; nothing changed`));
		return;
	}
	if (canary !== null && !['RolledBack', 'DeployFailed'].includes(state)) {
		const ms = (value: number) => (value < 0.5 ? '<1ms' : `${Math.round(value)}ms`);
		out.say(done(`Canary passed in ${canary.region}`, `${canary.status} OK, p50 ${ms(canary.p50Ms)}, max ${ms(canary.maxMs)}`));
	}
	if (deployment.coldStarts > 0) out.say(`  ${count(deployment.coldStarts, 'instance')} started without a warm process at hand`);
	if (isLive(deployment)) {
		const live = deployment.regions.filter((region) => region.state === 'live').length;
		const watch = watchNote(deployment);
		const verb = deployment.kind === 'rollback' ? 'Rolled back to' : 'Deployed to';
		const where = deployment.kind === 'rollback' ? `v${deployment.release} in ${count(live, 'region')}` : count(live, 'region');
		out.say(done(`${verb} ${where}`, `${seconds(totalMs)}${watch}`));
	}
	const behind = deployment.regions.filter((region) => region.state === 'pending' || region.state === 'skipped');
	for (const region of behind)
		out.say(`! ${region.name}: ${region.state}${region.reason === null ? '' : ` (${region.reason})`}; it catches up when it is back`);
}

export function isLive({ state }: Deployment): boolean {
	return state === 'Deployed';
}

function watchNote({ watchUntil, createdAt, endedAt }: Deployment): string {
	if (watchUntil === null) return '';
	const minutes = (watchUntil - (endedAt ?? createdAt)) / 60_000;
	return minutes >= 1 ? `; watching for ${Math.round(minutes)} min` : `; watching for ${Math.round(minutes * 60)} s`;
}

/** Why it did not end live, in words, as the last thing said. */
export function failureOf({ id, app, state, reason, detail, regions }: Deployment): { code: string; message: string; hint: string } {
	const failed = regions.filter((region) => region.state === 'failed').map((region) => region.name);
	const where =
		failed.length === 0 ? '' : ` in ${failed.slice(0, 3).join(', ')}${failed.length > 3 ? ` and ${failed.length - 3} more` : ''}`;
	const serves = state === 'DeployFailed' || state === 'TestFailed' ? 'Nothing moved: what served before still serves.' : null;
	const story = (state === 'DeployFailed' ? FAILED_BY[reason ?? ''] : undefined) ?? STORY[state] ?? state;
	const message = `${story}${where}${reason === null ? '' : ` (${reason})`}${detail === null ? '' : `\n${detail}`}`;
	const more = `jibe logs ${app} and jibe status ${app} tell more; this was ${id}`;
	const hints = [serves, reason === 'fetch' ? SENT_ANEW : null, detail === null ? null : adviceOn(detail), more];
	return { code: reason ?? state, message, hint: hints.filter((line) => line !== null).join('\n') };
}

/** What Node says of an addon that was built for another Node leads back to where one came from. */
function adviceOn(detail: string): string | null {
	if (!detail.includes('NODE_MODULE_VERSION')) return null;
	return `Native addons must be built for the Node that Jibe runs apps on: PATH=${dirname(process.execPath)}:$PATH npm rebuild`;
}

const SENT_ANEW = 'Deploy again: what is missing or damaged is sent anew.';

const FAILED_BY: Partial<Record<string, string>> = {
	unhealthy: 'The release did not become healthy',
	fetch: 'The release could not be fetched',
	platform: 'Jibe could not start the release',
	room: 'There is no room for the release',
	upload: 'The release could not be stored',
	regions_lost: 'Too few regions could be reached',
};

const STORY: Partial<Record<DeploymentState, string>> = {
	DeployFailed: 'The release did not start',
	TestFailed: 'The tests failed',
	BuildFailed: 'The build failed',
	RolledBack: 'Swung back to the release before',
	RollingBack: 'Swinging back to the release before',
	Cancelled: 'Cancelled',
	Superseded: 'A newer deployment took its place',
	TimedOut: 'Timed out',
};
