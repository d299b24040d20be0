import type { IncomingMessage } from 'node:http';
import { z } from 'zod';
import { httpTime, type Clock } from '#clock/clock.ts';
import { SESSION_COOKIE, cookie, isEncrypted } from '../access.ts';
import type { House } from '../house.ts';
import type { Pages } from '../pages.ts';
import { Refusal } from '../ports.ts';
import { Raw, route, type Route } from '../route.ts';

/** The page, signing in and out, and what anybody may ask: whether control is alive, and how to talk to it. */
export function pageRoutes(house: House, pages: Pages, describe: () => object): Route[] {
	return [...signInRoutes(house, pages), ...openRoutes(house, describe)];
}

function signInRoutes({ state, clock }: House, pages: Pages): Route[] {
	const page = (html: string, headers: Record<string, string> = {}) =>
		new Raw(html, 'text/html; charset=utf-8', { ...pages.headers, ...headers });
	return [
		route({
			method: 'GET',
			path: '/',
			summary: 'The page, for a browser that is signed in.',
			role: 'public',
			answer: 'text/html',
			async handle({ request }) {
				const session = cookie(request, SESSION_COOKIE);
				return page(session !== null && (await state.logins.session(session)) ? pages.index : pages.signIn(null));
			},
		}),
		route({
			method: 'GET',
			path: '/login',
			summary: 'Signs a browser in with the code of a one-time link.',
			role: 'public',
			query: z.object({ code: z.string().max(512).default('') }),
			answer: 'text/html',
			async handle({ query, request }) {
				const login = await state.logins.redeem(query.code);
				if (!login) return page(pages.signIn('This link was used before, or is older than 5 minutes.'));
				return page(pages.signedIn, { 'set-cookie': sessionCookie(login, request, clock) });
			},
		}),
		route({
			method: 'POST',
			path: '/logout',
			summary: 'Ends the session of this browser.',
			role: 'viewer',
			answer: 'text/html',
			async handle({ request }) {
				await state.logins.end(cookie(request, SESSION_COOKIE) ?? '');
				return page(pages.signIn(null), { 'set-cookie': `${SESSION_COOKIE}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0` });
			},
		}),
		asset('/page.js', 'text/javascript', pages.script),
		asset('/sign-in.js', 'text/javascript', pages.signInScript),
		asset('/allow.js', 'text/javascript', pages.allowScript),
		asset('/style.css', 'text/css', pages.style),
	];
}

export function sessionCookie(
	{ session, expiresAt }: { session: string; expiresAt: number },
	request: IncomingMessage,
	clock: Clock,
): string {
	const life = Math.max(1, Math.floor((expiresAt - clock.now()) / 1000));
	return `${SESSION_COOKIE}=${session}; Path=/; HttpOnly; SameSite=Strict; Max-Age=${life}${isEncrypted(request) ? '; Secure' : ''}`;
}

function openRoutes({ state, hub, clock }: House, describe: () => object): Route[] {
	return [
		route({
			method: 'GET',
			path: '/healthz',
			summary: 'Control is alive.',
			role: 'public',
			answer: z.object({ ok: z.literal(true) }),
			// The time is control's own word: by it a server finds out that its clock is off.
			handle: () => Promise.resolve(new Raw('{"ok":true}', 'application/json', { date: httpTime(clock.now()) })),
		}),
		route({
			method: 'GET',
			path: '/readyz',
			summary: 'Control can change what serves: its database answers.',
			role: 'public',
			answer: z.object({ ready: z.literal(true), regions: z.int() }),
			async handle() {
				if (await state.reachable()) return { ready: true, regions: hub.regions().filter(({ connected }) => connected).length };
				throw new Refusal(
					'database_unavailable',
					503,
					'the database does not answer',
					'what serves goes on serving; control tries again by itself',
				);
			},
		}),
		route({
			method: 'GET',
			path: '/openapi.json',
			summary: 'This document.',
			role: 'public',
			answer: 'application/json',
			handle: () => Promise.resolve(describe()),
		}),
	];
}

function asset(path: string, type: string, text: string): Route {
	return route({
		method: 'GET',
		path,
		summary: 'A part of the page.',
		role: 'public',
		answer: type,
		handle: () => Promise.resolve(new Raw(text, `${type}; charset=utf-8`)),
	});
}
