import { drainLine } from '#wire/join.ts';
import { EXIT, type Exit } from './failure.ts';
import { count, done } from './output.ts';
import { askLines, findServer } from './server.ts';
import type { Invocation, Verb } from './verbs.ts';

/** Moves what runs there away, and waits until nothing is left; nothing is placed there any more. `--cancel` ends that. */
export const verb: Verb = {
	syntax: { options: { cancel: 'flag' }, positionals: ['SERVER'], optional: 1 },
	async run({ args, out, data }: Invocation): Promise<Exit> {
		const server = args.positionals[0] ?? '';
		const cancel = args.flag('cancel');
		const path = `/api/v1/servers/${encodeURIComponent(server)}/drain${cancel ? '?cancel=1' : ''}`;
		await askLines(findServer(data), { method: 'POST', path }, (line) => {
			const said = drainLine.parse(line);
			if ('drained' in said) return true;
			out.now(`${count(said.left, 'instance')} left on ${server}…${said.why === null ? '' : ` (${said.why})`}`);
			return false;
		});
		const text = cancel ? `${server} takes instances again` : `Nothing runs on ${server} any more`;
		out.result({ server, drained: !cancel }, [done(text)]);
		return EXIT.done;
	},
};
