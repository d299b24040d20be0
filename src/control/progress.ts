import { sha256 } from '#digest/digest.ts';
import { isFinal } from '#pipeline/states.ts';
import type { Deployment, Event, ProgressLine } from '#wire/api.ts';
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
	const unwatch = house.driver.watch((deployment, { type, data }) => {
		const { app, environment, id } = deployment;
		mine(deployment, { event: { cursor: 0, at: house.clock.now(), type, app, environment, deployment: id, data } });
	});
	let unsubscribe = () => {};
	const stop = () => {
		unwatch();
		unsubscribe();
	};
	try {
		const { deployment, already } = await begin();
		response.writeHead(200, { 'content-type': 'application/x-ndjson', 'cache-control': 'no-store', 'x-content-type-options': 'nosniff' });
		const write = (line: ProgressLine) => response.write(`${JSON.stringify(line)}\n`);
		const end = (result: Deployment) => {
			stop();
			write({ result, already, ...(isSampled(result, already) ? { sample: true } : {}) });
			response.end();
		};
		if (detach || already || isFinal(deployment.state)) {
			end(deployment);
			return ANSWERED;
		}
		const states = new Set<unknown>();
		mine = (changed, line) => {
			if (changed.id !== deployment.id || response.writableEnded) return;
			if ('event' in line && line.event.type === 'deployment.state') {
				// Told by the driver, and once more by the database.
				const { state } = line.event.data;
				if (states.has(state)) return;
				states.add(state);
			}
			write(line);
			if (isFinal(changed.state)) end(changed);
			else if (response.writableLength > MAX_UNREAD_BYTES) response.destroy();
		};
		response.on('close', stop);
		for (const { deployment: changed, line } of said) mine(changed, line);
		unsubscribe = followElsewhere(house, deployment.id, (changed, event) => mine(changed, { event: { ...event, cursor: 0 } }));
		return ANSWERED;
	} catch (error) {
		stop();
		throw error;
	}
}

const SAMPLE_ONE_IN = 20;

/** By its id, so that whoever answers says the same; `JIBE_VERIFY_ONE_IN` is another share of deploys, 0 none. */
function isSampled({ id, kind, state }: Deployment, already: boolean): boolean {
	const oneIn = Number(process.env['JIBE_VERIFY_ONE_IN'] ?? SAMPLE_ONE_IN);
	if (kind !== 'deploy' || state !== 'Deployed' || already || !(oneIn >= 1)) return false;
	return Number.parseInt(sha256(id).slice(7, 15), 16) % Math.floor(oneIn) === 0;
}

/** Once another process drives it, only the database tells of it. */
function followElsewhere({ state, log }: House, id: string, tell: (changed: Deployment, event: Event) => void): () => void {
	return state.events.subscribe((event) => {
		if (event.deployment !== id || event.type !== 'deployment.state') return;
		state.deployments.deployment(id).then(
			(changed) => changed && tell(changed, event),
			// Who follows it asks for it once the stream breaks off, or hears of the next state.
			(error: unknown) => log.warn('progress.unread', { deployment: id, error }),
		);
	});
}
