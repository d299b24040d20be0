import { isFinal } from '#pipeline/states.ts';
import type { Deployment, ProgressLine } from '#wire/api.ts';
import type { House } from './house.ts';
import { ANSWERED, type Ask } from './route.ts';

/** The answer to a deploy or rollback: its events while it walks, one a line, and its end as the last. */

/** A reader this far behind is dropped; it can ask for the deployment instead. */
const MAX_UNREAD_BYTES = 4 * 1024 * 1024;

export async function streamProgress(
	house: House,
	{ response, query }: Pick<Ask, 'response' | 'query'>,
	begin: () => Promise<{ deployment: Deployment; already: boolean }>,
): Promise<typeof ANSWERED> {
	const detach = (query as { detach?: string } | undefined)?.detach === '1';
	const said: { deployment: Deployment; line: ProgressLine }[] = [];
	let mine = (deployment: Deployment, line: ProgressLine): void => void said.push({ deployment, line });
	const stop = house.driver.watch((deployment, { type, data }) => {
		const { app, environment, id } = deployment;
		mine(deployment, { event: { cursor: 0, at: house.clock.now(), type, app, environment, deployment: id, data } });
	});
	try {
		const { deployment, already } = await begin();
		response.writeHead(200, { 'content-type': 'application/x-ndjson', 'cache-control': 'no-store', 'x-content-type-options': 'nosniff' });
		const write = (line: ProgressLine) => response.write(`${JSON.stringify(line)}\n`);
		const end = (result: Deployment) => {
			stop();
			write({ result, already });
			response.end();
		};
		if (detach || already || isFinal(deployment.state)) {
			end(deployment);
			return ANSWERED;
		}
		mine = (changed, line) => {
			if (changed.id !== deployment.id || response.writableEnded) return;
			write(line);
			if (isFinal(changed.state)) end(changed);
			else if (response.writableLength > MAX_UNREAD_BYTES) response.destroy();
		};
		response.on('close', stop);
		for (const { deployment: changed, line } of said) mine(changed, line);
		return ANSWERED;
	} catch (error) {
		stop();
		throw error;
	}
}
