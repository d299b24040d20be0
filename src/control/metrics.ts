import type { Stats } from '#wire/region.ts';

/** Numbers for Prometheus, as text. Counters begin at 0 when control starts, which is what Prometheus expects of them. */

/** Series of one name; beyond it the oldest leave. Releases come and go, so without a limit this would grow for ever. */
const SERIES_MAX = 5_000;

type Labels = Record<string, string | number>;

interface Family {
	kind: 'counter' | 'gauge';
	help: string;
	series: Map<string, number>;
}

const FAMILIES = {
	jibe_requests_total: { kind: 'counter', help: 'Requests that edges passed to instances of a release.' },
	jibe_errors_total: { kind: 'counter', help: 'Answers of 500 and above, and requests without an answer.' },
	jibe_deployments_total: { kind: 'counter', help: 'Deployments that ended, by kind and state.' },
	jibe_transitions_total: { kind: 'counter', help: 'States that deployments entered.' },
	jibe_region_connected: { kind: 'gauge', help: '1 while the depot of the region is connected.' },
	jibe_region_edges: { kind: 'gauge', help: 'Edges connected in the region.' },
	jibe_database_up: { kind: 'gauge', help: '1 while PostgreSQL answers.' },
	jibe_builds_total: { kind: 'counter', help: 'Builds that ended, by state; what became a deployment is "deployed".' },
	jibe_builds_waiting: { kind: 'gauge', help: 'Builds that wait for a builder.' },
	jibe_builds_claimable: {
		kind: 'gauge',
		help: 'Those of them that a builder could begin now: one of each repository that builds nothing.',
	},
	jibe_builds_running: { kind: 'gauge', help: 'Builds that a builder has.' },
	jibe_builds_dead: { kind: 'gauge', help: 'Builds whose attempts are used up, until a person has them retried.' },
	jibe_builds_oldest_seconds: { kind: 'gauge', help: 'For how long the oldest of those that wait has been waiting; 0 while none does.' },
	jibe_builders_idle: { kind: 'gauge', help: 'Builders that wait for a job at this control.' },
	jibe_feed_clients: { kind: 'gauge', help: 'WebSockets that read the feed.' },
} as const satisfies Record<string, { kind: Family['kind']; help: string }>;

export type MetricName = keyof typeof FAMILIES;

export class Metrics {
	private readonly families = new Map<string, Family>(
		Object.entries(FAMILIES).map(([name, { kind, help }]) => [name, { kind, help, series: new Map() }]),
	);

	add(name: MetricName, labels: Labels, amount = 1): void {
		const { series } = this.families.get(name)!;
		const key = labelText(labels);
		const before = series.get(key) ?? 0;
		// Most recently counted last, so that the limit takes what nobody counts any more.
		series.delete(key);
		series.set(key, before + amount);
		for (const oldest of series.keys()) if (series.size > SERIES_MAX) series.delete(oldest);
	}

	set(name: MetricName, labels: Labels, value: number): void {
		this.families.get(name)!.series.set(labelText(labels), value);
	}

	countStats({ rows }: Stats): void {
		for (const { app, environment, region, release, requests, errors } of rows) {
			this.add('jibe_requests_total', { app, environment, region, release }, requests);
			this.add('jibe_errors_total', { app, environment, region, release }, errors);
		}
	}

	text(): string {
		const lines: string[] = [];
		for (const [name, { kind, help, series }] of this.families) {
			lines.push(`# HELP ${name} ${help}`, `# TYPE ${name} ${kind}`);
			for (const [labels, value] of series) lines.push(`${name}${labels} ${value}`);
		}
		return `${lines.join('\n')}\n`;
	}
}

function labelText(labels: Labels): string {
	const pairs = Object.entries(labels).map(
		([name, value]) => `${name}="${String(value).replace(/[\\"\n]/g, (c) => (c === '\n' ? '\\n' : `\\${c}`))}"`,
	);
	return pairs.length === 0 ? '' : `{${pairs.join(',')}}`;
}
