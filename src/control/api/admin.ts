import { z } from 'zod';
import {
	auditAnswer,
	credentialAnswer,
	credentialRequest,
	loginAnswer,
	regionsAnswer,
	token,
	tokenAnswer,
	tokenRequest,
	tokensAnswer,
} from '#wire/api.ts';
import { issueCredential } from '#wire/credential.ts';
import { appName, serverName } from '#wire/names.ts';
import { isEncrypted } from '../access.ts';
import type { House } from '../house.ts';
import { Refusal } from '../ports.ts';
import { Raw, route, type Route } from '../route.ts';
import { regionStatuses } from '../status.ts';

const DAY_MS = 86_400_000;
/** Of a program's credential; the supervisor renews it a week before. */
const CREDENTIAL_LIFE_MS = 30 * DAY_MS;
const AUDIT_MAX = 1_000;

export function adminRoutes(house: House): Route[] {
	return [...tokenRoutes(house), ...programRoutes(house), ...installationRoutes(house)];
}

function tokenRoutes({ state, clock }: House): Route[] {
	return [
		route({
			method: 'GET',
			path: '/api/v1/tokens',
			summary: 'All tokens, without their secrets.',
			role: 'admin',
			answer: tokensAnswer,
			handle: async () => ({ tokens: await state.tokens.list() }),
		}),
		route({
			method: 'POST',
			path: '/api/v1/tokens',
			summary: 'Makes a token; its secret is shown this once.',
			role: 'admin',
			body: tokenRequest,
			answer: tokenAnswer,
			handle({ body, caller }) {
				const { name, role, apps, environments, expiresInDays } = body;
				const expiresAt = expiresInDays === null ? null : clock.now() + expiresInDays * DAY_MS;
				return state.tokens.create({ name, role, apps, environments, expiresAt, by: caller.by });
			},
		}),
		route({
			method: 'DELETE',
			path: '/api/v1/tokens/:id',
			summary: 'Revokes a token, at once; its sessions end too.',
			role: 'admin',
			params: z.object({ id: z.string().min(1).max(80) }),
			answer: null,
			async handle({ params, caller }) {
				if (await state.tokens.revoke(params.id, caller.by)) return;
				throw new Refusal('token_unknown', 404, `there is no token ${params.id} that could be revoked`, '"jibe token list" shows them');
			},
		}),
		route({
			method: 'GET',
			path: '/api/v1/whoami',
			summary: 'The token that asks.',
			role: 'viewer',
			answer: z.object({ token }),
			handle: ({ caller }) => Promise.resolve({ token: caller.token }),
		}),
	];
}

function programRoutes(house: House): Route[] {
	const { state, installation, clock } = house;
	return [
		route({
			method: 'GET',
			path: '/api/v1/regions',
			summary: 'The regions, and who is connected there.',
			role: 'viewer',
			answer: regionsAnswer,
			handle: () => Promise.resolve({ regions: regionStatuses(house) }),
		}),
		route({
			method: 'POST',
			path: '/api/v1/credentials',
			summary: 'A credential for a program of a server.',
			role: 'admin',
			body: credentialRequest.extend({ server: serverName }),
			answer: credentialAnswer,
			async handle({ body, caller }) {
				const { role, server, regions } = body;
				const unknown = regions.filter((name) => !house.regions.some((region) => region.name === name));
				if (unknown.length > 0 || (regions.length === 0 && role !== 'builder')) {
					throw new Refusal('unknown_region', 422, `there is no region ${unknown.join(', ') || 'named'} here`);
				}
				const expires = Math.floor((clock.now() + CREDENTIAL_LIFE_MS) / 1000);
				const claims = { installation: installation.id, role, server, regions, expires };
				const detail = { role, server, regions: regions.length };
				await state.audit.write({ at: clock.now(), by: caller.by, action: 'credential.issued', app: null, environment: null, detail });
				const { privatePem, publicPem, id } = installation;
				return { credential: issueCredential(claims, privatePem), publicKey: publicPem, installation: id };
			},
		}),
	];
}

function installationRoutes({ state, url, metrics, builds, clock }: House): Route[] {
	return [
		route({
			method: 'POST',
			path: '/api/v1/logins',
			summary: 'A link that signs one browser in as this token, once.',
			role: 'viewer',
			answer: loginAnswer,
			async handle({ caller, request }) {
				const base = isEncrypted(request) ? `https://${request.headers.host}` : url;
				const entry = { at: clock.now(), by: caller.by, action: 'login.created', app: null, environment: null };
				await state.audit.write({ ...entry, detail: { token: caller.token.id } });
				const { code, expiresAt } = await state.logins.createCode(caller.token.id);
				return { url: `${base}/login?code=${encodeURIComponent(code)}`, expiresAt };
			},
		}),
		route({
			method: 'GET',
			path: '/api/v1/audit',
			summary: 'Who changed what, newest first.',
			role: 'admin',
			query: z.object({
				app: appName.optional(),
				limit: z.coerce.number().int().positive().max(AUDIT_MAX).default(100),
				before: z.coerce.number().int().optional(),
			}),
			answer: auditAnswer,
			async handle({ query: { app, limit, before } }) {
				const entries = await state.audit.list({
					limit,
					...(app === undefined ? {} : { app }),
					...(before === undefined ? {} : { before }),
				});
				return { entries };
			},
		}),
		route({
			method: 'GET',
			path: '/metrics',
			summary: 'Numbers for Prometheus.',
			role: 'viewer',
			answer: 'text/plain; version=0.0.4',
			async handle() {
				await builds.measure(metrics);
				return new Raw(metrics.text(), 'text/plain; version=0.0.4; charset=utf-8');
			},
		}),
	];
}
