import { z } from 'zod';
import { progressLine, rotation, rotationAnswer, secretChange, secretRemoval, secretsList, type SecretsList } from '#wire/api.ts';
import { appName, environmentName, PRODUCTION } from '#wire/names.ts';
import { secretsAnswer, SECRETS_PATH, secretsRequest } from '#wire/secrets.ts';
import { handOver } from '../hand-over.ts';
import type { House } from '../house.ts';
import { streamProgress } from '../progress.ts';
import { route, type Route } from '../route.ts';
import { removeSecret, setSecret } from '../secret-changes.ts';

const ofApp = z.object({ app: appName });
const inEnvironment = z.object({ environment: environmentName.default(PRODUCTION) });

export function secretRoutes(house: House): Route[] {
	return [...appSecrets(house), rotationRoute(house), handOverRoute(house)];
}

function appSecrets(house: House): Route[] {
	return [
		route({
			method: 'GET',
			path: '/api/v1/apps/:app/secrets',
			summary: 'Names and versions of secrets, never values.',
			role: 'viewer',
			params: ofApp,
			query: inEnvironment,
			answer: secretsList,
			handle: ({ params, query }) => listed(house, params.app, query.environment),
		}),
		route({
			method: 'PUT',
			path: '/api/v1/apps/:app/secrets',
			summary:
				'Sets a secret and deploys the release that serves with it; as JSON when it is only staged, or when nothing serves that lists it.',
			role: 'deployer',
			params: ofApp,
			query: z.object({ detach: z.enum(['0', '1']).default('0') }),
			body: secretChange,
			answer: progressLine,
			lines: true,
			async handle(ask) {
				const { answer, deploy } = await setSecret(house, { ...ask.body, app: ask.params.app, by: ask.caller.by });
				return deploy ? streamProgress(house, ask, deploy) : answer;
			},
		}),
		route({
			method: 'POST',
			path: '/api/v1/apps/:app/secrets/removals',
			summary: 'Removes all versions of a secret that no release which serves needs.',
			role: 'deployer',
			params: ofApp,
			body: secretRemoval,
			answer: null,
			handle: ({ params, body, caller }) => removeSecret(house, { app: params.app, ...body, by: caller.by }),
		}),
	];
}

function rotationRoute(house: House): Route {
	return route({
		method: 'POST',
		path: '/api/v1/secrets/rotations',
		summary: "Seals every secret's key under a new master key.",
		role: 'admin',
		body: rotation,
		answer: rotationAnswer,
		async handle({ body, caller }) {
			if (body.lostKey) return { rewrapped: 0, ...(await house.secrets.giveUp(caller.by)) };
			return { ...(await house.secrets.rotate(caller.by)), lost: [] };
		},
	});
}

function handOverRoute(house: House): Route {
	return route({
		method: 'POST',
		path: SECRETS_PATH,
		summary: "A release's secrets for the agent of a server that it is placed on, sealed to that agent.",
		role: 'program',
		body: secretsRequest,
		answer: secretsAnswer,
		handle: ({ body }) => handOver(house, body),
	});
}

async function listed(house: House, app: string, environment: string): Promise<SecretsList> {
	const rows = await house.state.secrets.list({ app, environment });
	const byName = Map.groupBy(rows, ({ name }) => name);
	return {
		secrets: [...byName].map(([name, versions]) => {
			const current = versions.find(({ revokedAt }) => revokedAt === null);
			return {
				name,
				versions: versions.map((row) => ({
					version: row.version,
					state: row.revokedAt !== null ? ('revoked' as const) : row === current ? ('current' as const) : ('previous' as const),
					setAt: row.createdAt,
					by: row.by,
				})),
			};
		}),
	};
}
