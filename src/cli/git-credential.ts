import { EXIT, type Exit } from './failure.ts';
import { isPrivate, findServer } from './server.ts';
import type { Invocation, Verb } from './verbs.ts';

/**
 * What git runs when it needs a password for control (gitcredentials(7)): so the token is neither typed nor kept in a
 * repository's configuration. It is told to nobody but the control that it is for.
 */

const MAX_CHARACTERS = 64 * 1024;

export const verb: Verb = {
	syntax: { options: {}, positionals: ['get|store|erase'], optional: 0 },
	async run({ args, out, data }: Invocation): Promise<Exit> {
		const asked = await attributes();
		// What git would have kept or forgotten is kept elsewhere.
		if (args.positionals[0] !== 'get') return EXIT.done;
		const server = findServer(data);
		const origin = `${asked.get('protocol')}://${asked.get('host')}`;
		const control = [server.url, ...(server.others ?? [])].find((url) => URL.canParse(origin) && url.origin === new URL(origin).origin);
		if (control && isPrivate(control)) out.result({}, ['username=jibe', `password=${server.token}`]);
		else out.say(`jibe: ${origin} is not the control that is used here (${server.url.origin}); "jibe login" changes that`);
		return EXIT.done;
	},
};

async function attributes(): Promise<Map<string, string>> {
	let text = '';
	process.stdin.setEncoding('utf8');
	for await (const part of process.stdin as AsyncIterable<string>) {
		text += part;
		if (text.length > MAX_CHARACTERS) break;
	}
	return new Map(text.split('\n').flatMap((line) => (line.includes('=') ? [[line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]] : []))); // prettier-ignore
}
