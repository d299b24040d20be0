import { EXIT, type Exit } from './failure.ts';

import { readInstalled } from './installed/note.ts';
import { stopService } from './installed/service.ts';
import { stopInstallation } from './up/stop.ts';
import type { Invocation, Verb } from './verbs.ts';

export const verb: Verb = {
	syntax: { options: {}, positionals: [], optional: 0 },
	async run({ out, data }: Invocation): Promise<Exit> {
		const installed = readInstalled(data);
		// Else its manager would start the supervisor again.
		if (installed) stopService(installed);
		out.now(`Stopping what runs on ${data}…`);
		// Also where the directory is gone: what ran on it may still run.
		const stopped = await stopInstallation(data, (line) => out.now(line));
		out.result({ stopped, data }, [
			stopped === 0 ? `Nothing was running on ${data}` : `Stopped ${stopped} ${stopped === 1 ? 'process' : 'processes'} of ${data}`,
		]);
		return EXIT.done;
	},
};
