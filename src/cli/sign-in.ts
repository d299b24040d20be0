import { hostname } from 'node:os';
import { sha256 } from '#digest/digest.ts';
import { newToken, signInAnswer, signInState } from '#wire/sign-in.ts';
import { startBrowser } from './browser.ts';
import { Failure } from './failure.ts';
import type { Output } from './output.ts';
import { ask, type Server } from './server.ts';

/** A token that a person allows in a browser, or pastes here. It is made here: control hears its hash, and a browser the code alone. */
export async function signIn(server: Server, pasted: () => Promise<string | null>, out: Output): Promise<string> {
	const { id, secret } = newToken();
	const json = { token: id, hash: sha256(secret), machine: machineName() };
	const { code } = signInAnswer.parse(await ask(server, { method: 'POST', path: '/api/v1/sign-ins', json }));
	const url = new URL(`/sign-in?code=${code}`, server.url).href;
	out.say(`Allow it in a browser, where the code must be  ${code}`);
	out.say(`  ${url}`);
	out.say('Or paste a token here and press Enter.');
	startBrowser(url);
	const waiting = new AbortController();
	try {
		return await Promise.race([allowed({ ...server, token: secret }, waiting.signal), pastedToken(pasted)]);
	} finally {
		waiting.abort();
	}
}

async function allowed(server: Server, signal: AbortSignal): Promise<string> {
	for (let again = true; ;) {
		try {
			const { state } = signInState.parse(await ask(server, { path: '/api/v1/sign-ins/mine', signal }));
			if (state === 'allowed') return server.token;
			again = true;
		} catch (error) {
			// A control that restarts is waited for from the question on, and this one may have been held until then.
			if (!again || !(error instanceof Failure) || error.code !== 'unreachable') throw error;
			again = false;
		}
	}
}

/** An empty line is nobody's token, and neither is the end of the input: the browser may still be asked. */
async function pastedToken(pasted: () => Promise<string | null>): Promise<string> {
	for (;;) {
		const line = await pasted();
		if (line === null) return new Promise(() => {});
		if (line.trim() !== '') return line.trim();
	}
}

function machineName(): string {
	return (
		hostname()
			.replaceAll(/[^\w.-]/g, '-')
			.slice(0, 60) || 'a-machine'
	);
}
