import type { AppStatus } from '#wire/api.ts';
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
		const url = app === undefined ? await signInLink(server) : await appUrl(server, app, environment);
		if (process.stdout.isTTY) startBrowser(url);
		out.result({ url }, [url]);
		return EXIT.done;
	},
};

async function signInLink(server: ReturnType<typeof findServer>): Promise<string> {
	const { url } = (await ask(server, { method: 'POST', path: '/api/v1/logins' })) as { url: string };
	return new URL(url, server.url).href;
}

async function appUrl(server: ReturnType<typeof findServer>, app: string, environment: string): Promise<string> {
	const path = `/api/v1/apps/${encodeURIComponent(app)}/status?environment=${encodeURIComponent(environment)}`;
	return ((await ask(server, { path })) as AppStatus).url;
}
