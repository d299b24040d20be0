import type { IncomingMessage, ServerResponse } from 'node:http';
import { z } from 'zod';
import {
	signInAnswer,
	signInCode,
	signInDecided,
	signInDecision,
	signInRequest,
	signInState,
	signInView,
	tokenIdOf,
} from '#wire/sign-in.ts';
import { SESSION_COOKIE, authorise, bearer, cookie } from '../access.ts';
import type { House } from '../house.ts';
import type { Pages } from '../pages.ts';
import { Refusal } from '../ports.ts';
import { Raw, route, type Route } from '../route.ts';
import { sessionCookie } from './pages.ts';

/** `jibe login` with a browser: a command waits, a person who is signed in allows it a token, or does not. */

/** The command asks again then: neither it nor what is between has to keep a silent connection for longer. */
const HOLD_MS = 20_000;
const DECIDED = 'sign_in.decided';

export function signInRoutes(house: House, pages: Pages): Route[] {
	return [...commandRoutes(house), ...personRoutes(house), ...browserRoutes(house, pages)];
}

function commandRoutes(house: House): Route[] {
	const { state } = house;
	return [
		route({
			method: 'POST',
			path: '/api/v1/sign-ins',
			summary: 'Asks for a token that a person with a browser is to allow. Its maker keeps the token and sends the hash.',
			role: 'public',
			body: signInRequest,
			answer: signInAnswer,
			async handle({ body, request }) {
				const begun = await state.signIns.begin({ ...body, address: addressOf(request) });
				if (begun) return { ...begun, code: shown(begun.code) };
				throw new Refusal(
					'too_many_sign_ins',
					429,
					'too many sign-ins wait here already',
					'try again in a few minutes, or give a token: jibe login URL < token',
				);
			},
		}),
		route({
			method: 'GET',
			path: '/api/v1/sign-ins/mine',
			summary: 'Whether the token that asks was allowed; held until somebody decides, for a while.',
			role: 'public',
			answer: signInState,
			handle: ({ request, response }) => waitFor(house, bearer(request) ?? '', response),
		}),
	];
}

/** What is decided here or by another control is an event; the database has the last word. */
async function waitFor({ state, clock }: House, secret: string, response: ServerResponse): Promise<z.infer<typeof signInState>> {
	const id = tokenIdOf(secret);
	const look = async () => {
		const how = await state.signIns.look(secret);
		if (how === 'waiting' || how === 'allowed') return { state: how };
		throw how === null ? NOT_ASKED : how === 'denied' ? DENIED : EXPIRED;
	};
	const decided = Promise.withResolvers<void>();
	const stop = state.events.subscribe(({ type, data }) => {
		if (type === DECIDED && data['token'] === id) decided.resolve();
	});
	const limit = clock.after(HOLD_MS, decided.resolve, { idle: true });
	response.once('close', decided.resolve);
	try {
		const now = await look();
		if (now.state !== 'waiting') return now;
		await decided.promise;
		return await look();
	} finally {
		limit.cancel();
		stop();
	}
}

const NOT_ASKED = new Refusal('login_unknown', 404, 'control knows nothing of this sign-in', 'start again: jibe login URL');
const DENIED = new Refusal('login_denied', 403, 'the sign-in was refused in the browser');
const EXPIRED = new Refusal('login_expired', 410, 'nobody allowed the sign-in within 5 minutes', 'start again: jibe login URL');
const NO_SUCH_CODE = new Refusal(
	'code_unknown',
	404,
	'no sign-in waits with this code',
	'compare it with your terminal; it is good for 5 minutes, and once',
);

function personRoutes({ state, clock }: House): Route[] {
	const params = z.object({ code: signInCode });
	const waiting = async (code: string) => {
		const found = await state.signIns.waiting(code);
		if (found) return found;
		throw NO_SUCH_CODE;
	};
	return [
		route({
			method: 'GET',
			path: '/api/v1/sign-ins/:code',
			summary: 'Who asks for a token with this code.',
			role: 'viewer',
			params,
			answer: signInView,
			async handle({ params: { code } }) {
				const { machine, address, expiresAt } = await waiting(code);
				return { code: shown(code), machine, address, expiresAt };
			},
		}),
		route({
			method: 'POST',
			path: '/api/v1/sign-ins/:code',
			summary: 'Allows it a token, of a role that the one who allows has too, or denies it.',
			role: 'viewer',
			params,
			body: signInDecision,
			answer: signInDecided,
			async handle({ params: { code }, body: { allow, role }, caller }) {
				if (allow) authorise(caller, role);
				const { token, machine } = await waiting(code);
				const { by } = caller;
				const done = allow
					? await state.signIns.allow(code, { parent: caller.token, role, by })
					: (await state.signIns.deny(code, by)) && machine;
				if (done === null || done === false) throw NO_SUCH_CODE;
				const event = { at: clock.now(), type: DECIDED, app: null, environment: null, deployment: null };
				await state.events.add([{ ...event, data: { token, machine, allowed: allow } }]);
				return { name: done };
			},
		}),
	];
}

function browserRoutes({ state, clock }: House, pages: Pages): Route[] {
	return [
		route({
			method: 'GET',
			path: '/sign-in',
			summary: 'Where a person allows a command a token.',
			role: 'public',
			query: z.object({ code: z.string().max(40).optional() }),
			answer: 'text/html',
			async handle({ request }) {
				const session = cookie(request, SESSION_COOKIE);
				const html =
					session !== null && (await state.logins.session(session))
						? pages.allow
						: pages.signIn(null, ' Then open the link of your terminal again.');
				return new Raw(html, 'text/html; charset=utf-8', pages.headers);
			},
		}),
		route({
			method: 'POST',
			path: '/api/v1/sessions',
			summary: 'Signs this browser in as a token.',
			role: 'public',
			body: z.object({ token: z.string().max(512) }),
			answer: z.object({ expiresAt: z.number() }),
			async handle({ body, request }) {
				const token = await state.tokens.verify(body.token.trim());
				if (!token) throw new Refusal('unauthenticated', 401, 'this token does not exist, has expired, or was revoked');
				const { code } = await state.logins.createCode(token.id);
				const login = await state.logins.redeem(code);
				if (!login) throw new Refusal('unauthenticated', 401, 'this token was revoked just now');
				const answer = JSON.stringify({ expiresAt: login.expiresAt });
				return new Raw(answer, 'application/json', { 'set-cookie': sessionCookie(login, request, clock) });
			},
		}),
	];
}

function shown(code: string): string {
	return `${code.slice(0, 4)}-${code.slice(4)}`;
}

/** As people write it: an IPv4 address that came over an IPv6 socket is one. */
function addressOf({ socket }: IncomingMessage): string {
	return (socket.remoteAddress ?? 'unknown').replace(/^::ffff:/, '');
}
