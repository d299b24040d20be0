import { done, seconds, type Output } from './output.ts';

/** What is told of a deployment beside its states: tasks on servers, checks, migrations that were read. */

const RUNNING: Readonly<Record<string, string>> = {
	'migrate-before': 'Migrating (before)',
	'smoke-prepared': 'Smoke test of what is prepared',
	'smoke-live': 'Smoke test of what serves',
	'migrate-after': 'Migrating (after)',
};
const PASSED: Readonly<Record<string, string>> = {
	'migrate-before': 'Migrated',
	'smoke-prepared': 'Smoke test passed, before it serves',
	'smoke-live': 'Smoke test passed, now that it serves',
	'migrate-after': 'Migrated, after',
};

export function hearBeside(out: Output, type: string, data: Record<string, unknown>): void {
	const { kind, state, region, ms } = data as { kind?: string; state?: string; region?: string; ms?: number };
	if (type === 'deployment.task' && kind !== undefined && kind in RUNNING) {
		if (state === 'running') out.now(`${RUNNING[kind]} in ${region}…`);
		else if (state === 'passed') out.say(done(`${PASSED[kind]} in ${region}`, seconds(ms ?? 0)));
		else if (state === 'lost') out.say(`! ${RUNNING[kind]}: ${String(data['detail'])}; it is tried again`);
	} else if (type === 'deployment.checks' && state === 'passed') out.say(done('Checks passed', String(data['summary'])));
	else if (type === 'deployment.held') out.say(`Held at ${Number(data['weightBp']) / 100} %: jibe promote goes on, jibe cancel goes back`);
	else if (type === 'migration.warning') for (const line of data['findings'] as string[]) out.say(`! ${line}`);
}
