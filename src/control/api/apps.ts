import { z } from 'zod';
import { appsAnswer, envAnswer, envChange, logLine, progressLine } from '#wire/api.ts';
import { statusAnswer } from '#wire/builds.ts';
import { appName, environmentName, PRODUCTION, regionName } from '#wire/names.ts';
import { sees } from '../access.ts';
import { changeEnv } from '../env.ts';
import { appAddress } from '../app-edge.ts';
import type { House } from '../house.ts';
import { Refusal } from '../ports.ts';
import { recover } from '../recover.ts';
import { streamProgress } from '../progress.ts';
import { ANSWERED, route, type Ask, type Route } from '../route.ts';
import { appStatus, servingOf } from '../status.ts';
import { refuseUnknown } from '../unknown-app.ts';

const LOG_LINES_MAX = 10_000;
const LOG_LINES_DEFAULT = 200;
/** A reader of logs this far behind is dropped. */
const MAX_UNREAD_BYTES = 8 * 1024 * 1024;

const ofApp = z.object({ app: appName });
const inEnvironment = z.object({ environment: environmentName.default(PRODUCTION) });
const logsQuery = inEnvironment.extend({
	/** Wall time in ms. */
	since: z.coerce.number().nonnegative().default(0),
	follow: z.enum(['0', '1']).default('0'),
	/** At most this many of the newest, of each server. */
	lines: z.coerce.number().int().positive().max(LOG_LINES_MAX).default(LOG_LINES_DEFAULT),
	region: regionName.optional(),
});

export function appRoutes(house: House): Route[] {
	return [...appReads(house), ...envRoutes(house), logsRoute(house), removeRoute(house), recoverRoute(house)];
}

function appReads(house: House): Route[] {
	return [
		route({
			method: 'GET',
			path: '/api/v1/apps',
			summary: 'All apps that the token may see.',
			role: 'viewer',
			answer: appsAnswer,
			async handle({ caller }) {
				const [rows, wants] = await Promise.all([house.state.apps.list(), house.state.deployments.wants({})]);
				const apps = rows
					.filter(({ app }) => sees(caller.token, app))
					.map(({ app, environments, createdAt, readOnly }) => ({
						app,
						createdAt,
						readOnly: house.driver.readOnly(app) ?? readOnly,
						environments: environments.map((environment) => ({
							environment,
							serving: servingOf(
								house,
								wants.filter((want) => want.app === app && want.environment === environment && !want.removed),
							),
							...appAddress(house.roster, app, environment),
						})),
					}));
				return { apps };
			},
		}),
		route({
			method: 'GET',
			path: '/api/v1/apps/:app/status',
			summary: 'What serves where, and where a rollback would go.',
			role: 'viewer',
			params: ofApp,
			query: inEnvironment,
			answer: statusAnswer,
			handle: ({ params, query, caller }) => appStatus(house, params.app, query.environment, caller),
		}),
	];
}

function envRoutes(house: House): Route[] {
	return [
		route({
			method: 'GET',
			path: '/api/v1/apps/:app/env',
			summary: 'What is set on top of the env of jibe.json.',
			role: 'deployer',
			params: ofApp,
			query: inEnvironment,
			answer: envAnswer,
			handle: ({ params, query }) => house.state.env.get(params.app, query.environment),
		}),
		route({
			method: 'PUT',
			path: '/api/v1/apps/:app/env',
			summary: 'Changes env and deploys the release that serves with it; as JSON when it is only staged, or when nothing serves yet.',
			role: 'deployer',
			params: ofApp,
			query: z.object({ detach: z.enum(['0', '1']).default('0') }),
			body: envChange,
			answer: progressLine,
			lines: true,
			async handle(ask) {
				const change = { ...ask.body, app: ask.params.app, by: ask.caller.by };
				const { answer, deploy } = await changeEnv(house, change);
				return deploy ? streamProgress(house, ask, deploy) : answer;
			},
		}),
	];
}

function logsRoute(house: House): Route {
	return route({
		method: 'GET',
		path: '/api/v1/apps/:app/logs',
		summary: 'What the instances wrote, as it comes.',
		role: 'viewer',
		params: ofApp,
		query: logsQuery,
		answer: logLine,
		lines: true,
		async handle(ask) {
			await refuseUnknown(house, ask.caller, ask.params.app, ask.query.environment);
			return streamLogs(house, ask.params.app, ask.query, ask);
		},
	});
}

function streamLogs(house: House, app: string, query: z.infer<typeof logsQuery>, { response }: Pick<Ask, 'response'>): typeof ANSWERED {
	const { environment, since, follow, lines: maxLines, region } = query;
	const names = house.regions.map(({ name }) => name);
	if (region !== undefined && !names.includes(region)) {
		throw new Refusal('unknown_region', 404, `there is no region ${region} here`, `the regions are ${names.join(', ')}`);
	}
	response.writeHead(200, { 'content-type': 'application/x-ndjson', 'cache-control': 'no-store', 'x-content-type-options': 'nosniff' });
	response.flushHeaders();
	const stop = house.hub.logs({
		regions: region === undefined ? names : [region],
		app,
		environment,
		since,
		follow: follow === '1',
		maxLines,
		onLines(lines) {
			for (const line of lines) response.write(`${JSON.stringify(line)}\n`);
			if (response.writableLength > MAX_UNREAD_BYTES) response.destroy();
		},
		onEnd: () => response.end(),
	});
	response.on('close', stop);
	return ANSWERED;
}

function removeRoute(house: House): Route {
	return route({
		method: 'DELETE',
		path: '/api/v1/apps/:app',
		summary: 'Removes the app from all regions; its history stays.',
		role: 'admin',
		params: ofApp,
		answer: null,
		async handle({ params, caller }) {
			await refuseUnknown(house, caller, params.app);
			// First what serves, then what is remembered: a removal cut short is done again.
			await house.driver.removeApp(params.app, caller.by);
			await house.state.apps.remove(params.app, caller.by);
		},
	});
}

function recoverRoute(house: House): Route {
	return route({
		method: 'POST',
		path: '/api/v1/apps/:app/recoveries',
		summary:
			'Ends the read-only state of an app that a region knows more of than the database: what the regions serve holds, or what the database wants.',
		role: 'admin',
		params: ofApp,
		query: z.object({ take: z.enum(['regions', 'database']).default('regions') }),
		answer: z.object({ epoch: z.int() }),
		handle: ({ params, query, caller }) => recover(house, params.app, caller.by, query.take),
	});
}
