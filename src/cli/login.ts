import { mkdirSync, renameSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { EXIT, usage, type Exit } from './failure.ts';
import { done } from './output.ts';
import { loginFile } from './places.ts';
import { ask } from './server.ts';
import type { Invocation, Verb } from './verbs.ts';

/** The token comes on standard input: on a command line everybody on the machine could read it. */
export const verb: Verb = {
	syntax: { options: {}, positionals: ['URL'], optional: 1 },
	async run({ args, out }: Invocation): Promise<Exit> {
		const url = parseUrl(args.positionals[0] ?? '');
		if (process.stdin.isTTY) out.say('Paste the token and press Enter:');
		const token = (await readLine()).trim();
		if (token === '') throw usage('no token on standard input', `jibe login ${url.origin} < token`);
		await ask({ url, token }, { path: '/api/v1/apps' });
		const file = loginFile();
		mkdirSync(dirname(file), { recursive: true, mode: 0o700 });
		const draft = `${file}.${process.pid}`;
		writeFileSync(draft, JSON.stringify({ url: url.origin, token }), { mode: 0o600 });
		renameSync(draft, file);
		out.result({ url: url.origin, file }, [done(`Signed in to ${url.origin}`)]);
		return EXIT.done;
	},
};

function parseUrl(text: string): URL {
	if (!URL.canParse(text)) throw usage(`"${text}" is not a URL`, 'such as http://127.0.0.1:7070');
	const url = new URL(text);
	if (url.protocol !== 'http:' && url.protocol !== 'https:') throw usage('the URL of a Jibe begins with http:// or https://');
	return url;
}

async function readLine(): Promise<string> {
	let text = '';
	for await (const chunk of process.stdin) {
		text += String(chunk);
		if (text.includes('\n')) break;
	}
	return text.split('\n')[0] ?? '';
}
