import { z } from 'zod';
import { readTime } from '#clock/clock.ts';
import { appName, environmentName } from '#wire/names.ts';
import type { VerdictHook } from '#wire/repositories.ts';
import { authorise, type Caller } from '../access.ts';
import type { House } from '../house.ts';
import { Refusal, type VerdictDone } from '../ports.ts';

/** What somebody outside says of what serves: Prometheus by its Alertmanager, or anything that can sign or has a token. */

const MAX_ALERTS = 200;
const MAX_REASON = 500;

/** The one of Alertmanager's that matters here; it sends more. */
export const alertmanagerHook = z.object({
	alerts: z
		.array(
			z.object({
				status: z.string(),
				labels: z.record(z.string(), z.string()),
				annotations: z.record(z.string(), z.string()).default({}),
				startsAt: z.iso.datetime({ offset: true }),
			}),
		)
		.max(MAX_ALERTS),
});

export const judged = z.object({
	app: z.string(),
	environment: z.string(),
	/** stopped: what was under way swings back. rolled-back: what was live does. watch-ended, promoted: well. */
	did: z.enum(['stopped', 'rolled-back', 'watch-ended', 'promoted', 'nothing']),
	deployment: z.string().nullable(),
	why: z.string().nullable(),
});
export type Judged = z.infer<typeof judged>;

/** Of alerts that fire and name an app in the label `app`, or `jibe_app`. */
export async function judgeAlerts(house: House, { alerts }: z.infer<typeof alertmanagerHook>, caller: Caller): Promise<Judged[]> {
	const verdicts = new Map<string, VerdictHook>();
	for (const alert of alerts) {
		const said = alert.status === 'firing' ? verdictOf(alert) : null;
		// One word on each environment: the first alert of a group is as good as ten.
		if (said) verdicts.set(`${said.app}/${said.environment}`, verdicts.get(`${said.app}/${said.environment}`) ?? said);
	}
	const done: Judged[] = [];
	for (const said of verdicts.values()) {
		const { app, environment } = said;
		try {
			authorise(caller, 'deployer', { app, environment });
			done.push(await judge(house, said, caller.by));
		} catch (error) {
			// The others are judged all the same.
			if (!(error instanceof Refusal)) throw error;
			done.push({ app, environment, did: 'nothing', deployment: null, why: error.message });
		}
	}
	return done;
}

function verdictOf({ labels, annotations, startsAt }: z.infer<typeof alertmanagerHook>['alerts'][number]): VerdictHook | null {
	const app = appName.safeParse(labels['jibe_app'] ?? labels['app']);
	const environment = environmentName.safeParse(labels['jibe_environment'] ?? labels['environment'] ?? 'production');
	if (!app.success || !environment.success) return null;
	const words = annotations['summary'] ?? annotations['description'] ?? '';
	return {
		event: 'verdict',
		app: app.data,
		environment: environment.data,
		verdict: 'fail',
		reason: `alert ${labels['alertname'] ?? 'without a name'}${words === '' ? '' : `: ${words}`}`.slice(0, MAX_REASON),
		since: readTime(startsAt) ?? 0,
		rollback: labels['jibe_rollback'] === 'true',
	};
}

export async function judge(house: House, said: VerdictHook, by: string): Promise<Judged> {
	const { app, environment, verdict, reason, rollback, since = house.clock.now() } = said;
	// Told twice, the second would swing back what the first went back to.
	if (rollback && said.since === undefined)
		throw new Refusal(
			'since_missing',
			422,
			'a verdict that may roll back has to say when the harm began',
			'"since": milliseconds since 1970',
		);
	const entry = { at: house.clock.now(), by, action: 'verdict.received', app, environment };
	await house.state.audit.write({ ...entry, detail: { verdict, reason, since, rollback } });
	const done: VerdictDone = await house.driver.verdict({ app, environment, verdict, reason, since, rollback, by });
	house.log.info('verdict', { app, environment, verdict, reason, ...done });
	return { app, environment, ...done };
}
