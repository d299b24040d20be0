import { systemClock } from '#clock/clock.ts';
import type { AppStatus } from '#wire/api.ts';
import type { StatusAnswer } from '#wire/builds.ts';
import { reached } from '#wire/reached.ts';
import { buildLines } from './build-words.ts';
import { EXIT, type Exit } from './failure.ts';
import { ago, seconds, table } from './output.ts';
import { appOf } from './project.ts';
import { ask, findServer } from './server.ts';
import type { Invocation, Verb } from './verbs.ts';

export const verb: Verb = {
	syntax: { options: {}, positionals: ['APP'], optional: 0 },
	async run(invocation: Invocation): Promise<Exit> {
		const { args, out, environment, data } = invocation;
		const app = await appOf(args.positionals[0]);
		const server = findServer(data);
		if (app === null) {
			const { verb: list } = await import('./app-list.ts');
			return list.run(invocation);
		}
		const path = `/api/v1/apps/${encodeURIComponent(app)}/status?environment=${encodeURIComponent(environment)}`;
		const status = (await ask(server, { path })) as AppStatus & Partial<StatusAnswer>;
		out.result(status, lines(status));
		return EXIT.done;
	},
};

function lines(status: AppStatus & Partial<StatusAnswer>): string[] {
	const { app, environment, serving, commit, deployment, rollbackTo, readOnly, regions } = status;
	const head =
		serving === null
			? `${app} (${environment}) serves nothing`
			: `${app} (${environment}) serves v${serving}${commit === null ? '' : ` from ${commit.slice(0, 10)}`}`;
	const rows = regions.map((region) => [
		region.region,
		region.state + (region.reason === null ? '' : ` (${region.reason})`),
		served(region.wanted.pointer),
		instances(region.instances),
		region.warmRelease === null ? '' : `v${region.warmRelease}`,
	]);
	return [
		head,
		`→ ${reached(status)}`,
		...(deployment === null
			? []
			: [
					`last: ${deployment.id} ${deployment.kind === 'rollback' ? 'rollback to' : 'deploy of'} v${deployment.release}, ${deployment.state}, ${ago(systemClock.now() - deployment.createdAt)}, by ${deployment.by}`,
				]),
		...buildLines(status),
		...(status.watching ? ['watching: harm still swings it back'] : []),
		...(readOnly === null ? [] : [`! control only reads this app: ${readOnly} (jibe control recover ${app})`]),
		...(status.notices ?? []).map((notice) => `! ${notice}`),
		...rollback(rollbackTo, serving),
		...otherWarm(status),
		...regions.flatMap(({ region, stranded = null }) => (stranded === null ? [] : [`! ${region}: ${stranded}`])),
		'',
		...table(['region', 'state', 'serves', 'instances', 'warm'], rows),
	];
}

type Instance = AppStatus['regions'][number]['instances'][number];

/** Those that are alike together, with the servers they run on where there are several. */
function instances(all: readonly Instance[]): string {
	const alike = Map.groupBy(all, instance);
	return [...alike].map(([text, some]) => `${some.length > 1 ? `${some.length} ` : ''}${text}${where(some)}`).join('; ');
}

/** What runs on control's own machine needs no name. */
const OWN = /^local(-|$)/;

function where(some: readonly Instance[]): string {
	const servers = Map.groupBy(some, ({ server }) => server);
	if ([...servers.keys()].every((server) => OWN.test(server))) return '';
	const named = [...servers].map(([server, { length }]) => (length > 1 ? `${server} (${length})` : server));
	return ` on ${named.toSorted((a, b) => a.localeCompare(b)).join(', ')}`;
}

const CHECKED = ['prepared', 'serving'];

/** One that starts, drains or rests is not checked: that it isn't healthy says nothing. */
function instance({ release: number, state, healthy, reason }: Instance): string {
	const why = CHECKED.includes(state) ? (reason ?? 'unhealthy') : reason;
	return `v${number} ${state}${healthy || why === null ? '' : `, ${why}`}`;
}

function rollback(to: AppStatus['rollbackTo'], serving: number | null): string[] {
	if (to === null) return ['rollback: there is nothing to go back to'];
	if (to.release === serving) return [`rollback stops what is under way: v${to.release} goes on serving`];
	return [`rollback goes to v${to.release}${to.warm ? '' : `, from disk: about ${seconds(to.estimateMs)}`}`];
}

/** What stands by and is not gone back to was rolled back itself. */
function otherWarm({ rollbackTo, serving, regions }: AppStatus): string[] {
	const warm = regions.find((region) => region.warmRelease !== null)?.warmRelease ?? null;
	if (warm === null || warm === serving || warm === rollbackTo?.release) return [];
	return [`v${warm} stands by, but was rolled back: jibe rollback --to v${warm} --again`];
}

function served({ primary, candidate }: AppStatus['regions'][number]['wanted']['pointer']): string {
	return candidate === null ? release(primary) : `${release(primary)}, ${release(candidate.release)} at ${candidate.weightBp / 100} %`;
}

function release(number: number | null): string {
	return number === null ? '-' : `v${number}`;
}
