import type { ServerResponse } from 'node:http';
import { z } from 'zod';
import {
	buildAnswer,
	buildLogAnswer,
	buildNews,
	buildsAnswer,
	queueAnswer,
	queuedAnswer,
	remoteBuild,
	type BuildNews,
	type RemoteBuild,
} from '#wire/builds.ts';
import { PRODUCTION, appName, deploymentId, environmentName } from '#wire/names.ts';
import { authorise, sees, type Caller } from '../access.ts';
import { cancel, enqueue, find, follow, retry } from '../builds/builds.ts';
import { LOG_START } from '../builds/log.ts';
import type { House } from '../house.ts';
import { Refusal } from '../ports.ts';
import { ANSWERED, route, type Ask, type Route } from '../route.ts';

/** What people and their programs ask about builds. */

const LIST_MAX = 500;
const LIST_DEFAULT = 50;
const QUEUE_WAIT_MAX_MS = 60_000;
/** A reader this far behind is dropped; it can begin again. */
const MAX_UNREAD_BYTES = 8 * 1024 * 1024;
const ofApp = z.object({ app: appName });
const ofBuild = z.object({ id: deploymentId });
const yesOrNo = z.enum(['0', '1']).default('0');

export function buildRoutes(house: House): Route[] {
	return [...askRoutes(house), ...readRoutes(house), ...streamRoutes(house)];
}

function askRoutes(house: House): Route[] {
	const act = (verb: string, summary: string, answer: z.ZodType, work: (id: string, by: string) => Promise<unknown>) =>
		route({
			method: 'POST',
			path: `/api/v1/builds/:id/${verb}`,
			summary,
			role: 'deployer',
			params: ofBuild,
			answer,
			async handle({ params, caller }) {
				await allowed(house, params.id, caller, 'deployer');
				return work(params.id, caller.by);
			},
		});
	return [
		route({
			method: 'POST',
			path: '/api/v1/apps/:app/builds',
			summary: 'Builds on a builder and deploys what comes of it. With `follow` its progress, one a line.',
			role: 'deployer',
			params: ofApp,
			query: z.object({ follow: yesOrNo }),
			body: remoteBuild,
			answer: buildNews,
			lines: true,
			async handle({ params, query, body, caller, response }) {
				await checkSource(house, params.app, body);
				const queued = await enqueue(house, {
					...body,
					app: params.app,
					kind: 'deploy',
					lane: body.source.kind === 'git' ? `repository:${body.source.repository}` : `app:${params.app}`,
					trust: body.environment === PRODUCTION ? 'production' : 'preview',
					priority: 'remote',
					by: caller.by,
					artifact: null,
					verifies: null,
				});
				if (query.follow === '1') return stream(house, response, queued.id, { type: 'queued', ...queued });
				return { type: 'queued', ...queued };
			},
		}),
		act('cancel', 'Ends a build that waits or runs; one that is a deployment by now is cancelled as that.', buildAnswer, async (id, by) => {
			const build = await cancel(house, id, by);
			return { build, deployment: build.deployed ? await house.state.deployments.deployment(id) : null };
		}),
		act('retry', 'Queues what it was to make once more, under a new id.', queuedAnswer, (id, by) => retry(house, id, by)),
	];
}

function readRoutes(house: House): Route[] {
	const { state, builds } = house;
	return [
		route({
			method: 'GET',
			path: '/api/v1/builds',
			summary: 'Builds, newest first.',
			role: 'viewer',
			query: z.object({
				app: appName.optional(),
				environment: environmentName.optional(),
				which: z.enum(['all', 'open', 'dead', 'undeployed']).default('all'),
				limit: z.coerce.number().int().positive().max(LIST_MAX).default(LIST_DEFAULT),
				before: z.coerce.number().optional(),
			}),
			answer: buildsAnswer,
			async handle({ query: { app, environment, which, limit, before }, caller }) {
				const found = await state.builds.list({
					which,
					limit,
					...(app === undefined ? {} : { app }),
					...(environment === undefined ? {} : { environment }),
					...(before === undefined ? {} : { before }),
				});
				return { builds: found.filter((build) => sees(caller.token, build.app)) };
			},
		}),
		route({
			method: 'GET',
			path: '/api/v1/builds/queue',
			summary: 'How much waits and runs; with `wait` (ms) as soon as more waits than the builders here can take.',
			role: 'viewer',
			query: z.object({ wait: z.coerce.number().int().nonnegative().max(QUEUE_WAIT_MAX_MS).default(0) }),
			answer: queueAnswer,
			handle: ({ query, response }) => builds.numbers(query.wait, leaving(response)),
		}),
		route({
			method: 'GET',
			path: '/api/v1/builds/:id',
			summary: 'One build, and the deployment that it became.',
			role: 'viewer',
			params: ofBuild,
			answer: buildAnswer,
			async handle({ params, caller }) {
				const build = await allowed(house, params.id, caller, 'viewer');
				return { build, deployment: build.deployed ? await state.deployments.deployment(params.id) : null };
			},
		}),
	];
}

function streamRoutes(house: House): Route[] {
	return [
		route({
			method: 'GET',
			path: '/api/v1/builds/:id/progress',
			summary: 'All that has happened to it, then all that happens, also to the deployment that it becomes; one a line, its end the last.',
			role: 'viewer',
			params: ofBuild,
			answer: buildNews,
			lines: true,
			async handle({ params, caller, response }) {
				await allowed(house, params.id, caller, 'viewer');
				return stream(house, response, params.id);
			},
		}),
		route({
			method: 'GET',
			path: '/api/v1/builds/:id/log',
			summary: 'What its steps printed, one line a line; with `follow` until it has ended.',
			role: 'viewer',
			params: ofBuild,
			query: z.object({ follow: yesOrNo, step: z.string().max(200).optional() }),
			answer: buildLogAnswer,
			lines: true,
			async handle({ params, query, caller, response }) {
				await allowed(house, params.id, caller, 'viewer');
				return query.follow === '1' ? followLog(house, response, params.id, query.step) : sendLog(house, response, params.id, query.step);
			},
		}),
	];
}

const NDJSON = { 'content-type': 'application/x-ndjson', 'cache-control': 'no-store', 'x-content-type-options': 'nosniff' };

function stream(house: House, response: ServerResponse, id: string, first?: BuildNews): typeof ANSWERED {
	response.writeHead(200, NDJSON);
	const write = (news: BuildNews) => {
		response.write(`${JSON.stringify(news)}\n`);
		if (news.type === 'end') response.end();
		else if (response.writableLength > MAX_UNREAD_BYTES) response.destroy();
	};
	if (first) write(first);
	response.on('close', follow(house, id, write));
	return ANSWERED;
}

function followLog(house: House, response: ServerResponse, id: string, step: string | undefined): typeof ANSWERED {
	response.writeHead(200, NDJSON);
	response.flushHeaders();
	const stop = follow(house, id, (news) => {
		// What the deployment prints is another log.
		if (news.type === 'end' || (news.type === 'stage' && AFTER_BUILD.has(news.state))) return void response.end(stop);
		if (news.type !== 'log') return;
		for (const line of news.lines) if (step === undefined || line.step === step) response.write(`${JSON.stringify(line)}\n`);
		if (response.writableLength > MAX_UNREAD_BYTES) response.destroy();
	});
	response.on('close', stop);
	return ANSWERED;
}

async function sendLog({ buildLogs }: House, response: ServerResponse, id: string, step: string | undefined): Promise<typeof ANSWERED> {
	response.writeHead(200, NDJSON);
	for (let cursor = LOG_START; !response.destroyed;) {
		const read = await buildLogs.read(id, cursor);
		const text = read.lines.filter((line) => step === undefined || line.step === step).map((line) => `${JSON.stringify(line)}\n`);
		if (!response.write(text.join(''))) await drained(response);
		if (read.cursor === cursor) break;
		cursor = read.cursor;
	}
	response.end();
	return ANSWERED;
}

function drained(response: ServerResponse): Promise<void> {
	return new Promise((resolve) => {
		response.once('drain', resolve);
		response.once('close', resolve);
	});
}

const AFTER_BUILD: ReadonlySet<string> = new Set(['ReadyToDeploy', 'AwaitingApproval', 'Deploying']);

/** @throws Refusal 404, 403 */
async function allowed(house: House, id: string, caller: Caller, role: 'viewer' | 'deployer') {
	const build = await find(house, id);
	authorise(caller, role, role === 'viewer' ? { app: build.app } : { app: build.app, environment: build.environment });
	return build;
}

/** A laptop may name what it sent for this app; commits are for those whose repository builds this app. */
async function checkSource({ state }: House, app: string, { source }: RemoteBuild): Promise<void> {
	if (source.kind === 'tar') {
		if ((await state.blobs.owned(app, [source.digest])).size > 0) return;
		throw new Refusal('blobs_missing', 409, `${app} has not sent ${source.digest}`, 'send it with PUT …/blobs first', {
			missing: [source.digest],
		});
	}
	const repository = await state.repositories.get(source.repository);
	if (repository?.apps.some((one) => one.app === app)) return;
	throw new Refusal('source_gone', 404, `the repository ${source.repository} does not build ${app} here`, '"jibe repo list" shows them');
}

function leaving(response: Ask['response']): AbortSignal {
	const left = new AbortController();
	response.on('close', () => left.abort());
	return left.signal;
}
