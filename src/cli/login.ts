import { mkdirSync, renameSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { createInterface } from 'node:readline';
import { controlAnswer } from '#wire/join.ts';
import { EXIT, Failure, usage, type Exit } from './failure.ts';
import { done, type Output } from './output.ts';
import { loginFile } from './places.ts';
import { addresses, ask, type Server } from './server.ts';
import { signIn } from './sign-in.ts';
import type { Invocation, Verb } from './verbs.ts';

/**
 * Whom one speaks to comes first: by the fingerprint in the URL, by a public certificate, or by a person who compares
 * fingerprints. The token is allowed in a browser or comes on standard input: on a command line everybody on the machine could
 * read it.
 */
export const verb: Verb = {
	syntax: { options: {}, positionals: ['URL'], optional: 1 },
	async run({ args, out }: Invocation): Promise<Exit> {
		const input = linesOf(process.stdin);
		const server: Server = { ...addresses([args.positionals[0] ?? '']), token: '' };
		await recognise(server, input, out);
		server.token = process.stdin.isTTY ? await signIn(server, input, out) : ((await input()) ?? '').trim();
		if (server.token === '')
			throw usage('no token on standard input', `jibe login ${server.url.origin} < token, or without it at a terminal`);
		await ask(server, { path: '/api/v1/whoami' });
		const file = loginFile();
		keep(file, server, await othersOf(server));
		out.result({ url: server.url.origin, file }, [done(`Signed in to ${server.url.origin}`)]);
		return EXIT.done;
	},
};

/** From here on what is sent can be read by that control alone. */
async function recognise(server: Server, input: () => Promise<string | null>, out: Output): Promise<void> {
	try {
		await ask(server, { path: '/healthz' });
	} catch (error) {
		const fingerprint = error instanceof Failure && error.code === 'not_trusted' ? error.fields['fingerprint'] : undefined;
		if (typeof fingerprint !== 'string' || server.pin !== undefined || !process.stdin.isTTY) throw error;
		out.say(`${server.url.origin} has a certificate of its own, with the fingerprint`);
		out.say(`  ${fingerprint}`);
		out.say('"jibe up" on its machine says the same when it is the one you mean. Is it? Type yes:');
		if ((await input())?.trim().toLowerCase() !== 'yes') throw error;
		server.pin = fingerprint;
		await ask(server, { path: '/healthz' });
	}
}

/** Control's other addresses, which are believed by the same CA; a public certificate is only good for its own names. */
async function othersOf(server: Server): Promise<string[]> {
	if (!server.trust) return [];
	const { addresses: all } = controlAnswer.parse(await ask(server, { path: '/api/v1/control' }));
	return all.filter((address) => new URL(address).origin !== server.url.origin);
}

function keep(file: string, { url, token, trust }: Server, others: readonly string[]): void {
	mkdirSync(dirname(file), { recursive: true, mode: 0o700 });
	const draft = `${file}.${process.pid}`;
	const login = { url: url.origin, ...(others.length > 0 ? { urls: [url.origin, ...others] } : {}), token, ...trust };
	writeFileSync(draft, JSON.stringify(login), { mode: 0o600 });
	renameSync(draft, file);
}

/** One line at a time, as they come; null once there are no more. */
function linesOf(stream: NodeJS.ReadableStream): () => Promise<string | null> {
	let lines: AsyncIterator<string> | null = null;
	return async () => {
		lines ??= createInterface({ input: stream })[Symbol.asyncIterator]();
		const { value, done: ended } = await lines.next();
		return ended ? null : value;
	};
}
