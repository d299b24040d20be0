import type { AppStatus } from '#wire/api.ts';
import { reached } from '#wire/reached.ts';
import { startBrowser } from './browser.ts';
import { EXIT, type Exit } from './failure.ts';
import { ask, findServer } from './server.ts';
import type { Invocation, Verb } from './verbs.ts';

/** Without an app: a link that signs one browser in, once. */
export const verb: Verb = {
	syntax: { options: {}, positionals: ['APP'], optional: 0 },
	async run({ args, out, environment, data }: Invocation): Promise<Exit> {
		const server = findServer(data);
		const app = args.positionals[0];
		const at: { url: string; host?: string } =
			app === undefined ? { url: await signInLink(server) } : await addressOf(server, app, environment);
		// A browser can't be told another Host: that takes a domain.
		if (process.stdout.isTTY && !at.host) startBrowser(at.url);
		out.result(at, [reached(at)]);
		return EXIT.done;
	},
};

async function signInLink(server: ReturnType<typeof findServer>): Promise<string> {
	const { url } = (await ask(server, { method: 'POST', path: '/api/v1/logins' })) as { url: string };
	return new URL(url, server.url).href;
}

async function addressOf(server: ReturnType<typeof findServer>, app: string, environment: string): Promise<{ url: string; host?: string }> {
	const path = `/api/v1/apps/${encodeURIComponent(app)}/status?environment=${encodeURIComponent(environment)}`;
	const { url, host } = (await ask(server, { path })) as AppStatus;
	return { url, ...(host ? { host } : {}) };
}
