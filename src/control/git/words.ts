import type { BuildNews, StepReport } from '#wire/builds.ts';
import type { Deployment } from '#wire/api.ts';
import { reached } from '#wire/reached.ts';

/** What happens to a build, in the lines that a push shows. */

const STORY: Partial<Record<Deployment['state'], string>> = {
	BuildFailed: 'The build failed',
	TestFailed: 'The tests failed',
	DeployFailed: 'The release did not start; nothing moved',
	RolledBack: 'Harm was seen: what served before serves again',
	Cancelled: 'Cancelled',
	Superseded: 'A newer one took its place',
	TimedOut: 'It took too long',
};

/** null: nothing that a person waits for. */
export function wordsOf(news: Exclude<BuildNews, { type: 'end' }>): string | null {
	if (news.type === 'step') return stepWords(news.step);
	return news.type === 'stage' && news.state === 'Deploying' ? 'Deploying…' : null;
}

function stepWords({ name, state, cached, startedAt, endedAt, summary }: StepReport): string | null {
	const took = cached ? 'from the cache' : seconds((endedAt ?? startedAt) - startedAt);
	const [first = ''] = (summary ?? '').split('\n', 1);
	if (state === 'passed') return `✓ ${name} (${first === '' ? took : `${took}; ${first}`})`;
	return state === 'failed' ? `✗ ${name} failed after ${took}` : null;
}

export interface Ending {
	/** It serves, or did already. */
	live: boolean;
	lines: string[];
}

export function endingOf({ build, deployment, already }: Extract<BuildNews, { type: 'end' }>['end']): Ending {
	if (deployment?.state === 'Deployed') {
		const { regions, createdAt, endedAt, id } = deployment;
		const live = regions.filter(({ state }) => state === 'live').length;
		const took = seconds((endedAt ?? createdAt) - (build?.createdAt ?? createdAt));
		const first = already ? `✓ That is what serves, as ${id}` : `✓ Deployed to ${live} region${live === 1 ? '' : 's'} (${took})`;
		return { live: true, lines: [first, `→ ${reached(deployment)}   (rollback: jibe rollback ${id})`] };
	}
	const of = deployment ?? build;
	if (!of) return { live: false, lines: ['✗ Jibe knows nothing of this build any more'] };
	const reason = of.reason === null ? '' : ` (${of.reason})`;
	const detail = of.detail === null ? [] : of.detail.split('\n');
	return { live: false, lines: [`✗ ${STORY[of.state] ?? of.state}${reason}`, ...detail, `jibe logs --build ${of.id} shows all of it`] };
}

function seconds(ms: number): string {
	return `${(Math.max(0, ms) / 1000).toFixed(ms < 1_000 ? 2 : 1)}s`;
}
