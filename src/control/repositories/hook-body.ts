import type { IncomingMessage } from 'node:http';
import type { Clock } from '#clock/clock.ts';
import { Refusal } from '../ports.ts';

/** Bodies of those who have not shown yet who they are: together they never hold more than this. */

export const MAX_HOOK_BYTES = 5 * 1024 * 1024;
const MAX_HELD_BYTES = 64 * 1024 * 1024;
const BODY_LIMIT_MS = 10_000;

export class HookBodies {
	private held = 0;
	private readonly clock: Clock;

	constructor(clock: Clock) {
		this.clock = clock;
	}

	/** @throws Refusal 413 too_large, 503 busy, 408 too_slow, 400 cut_short */
	async read(request: IncomingMessage): Promise<Buffer> {
		if (Number(request.headers['content-length'] ?? 0) > MAX_HOOK_BYTES) throw tooLarge();
		const parts: Buffer[] = [];
		let bytes = 0;
		const { promise, resolve, reject } = Promise.withResolvers<Buffer>();
		const timer = this.clock.after(BODY_LIMIT_MS, () =>
			reject(new Refusal('too_slow', 408, `a body has to be here within ${BODY_LIMIT_MS / 1000} s`)),
		);
		const refuse = (refusal: Refusal) => {
			request.pause();
			reject(refusal);
		};
		request.on('data', (part: Buffer) => {
			bytes += part.length;
			this.held += part.length;
			parts.push(part);
			if (bytes > MAX_HOOK_BYTES) refuse(tooLarge());
			else if (this.held > MAX_HELD_BYTES) refuse(new Refusal('busy', 503, 'too much is being told at once', 'send it again'));
		});
		request.on('end', () => resolve(Buffer.concat(parts)));
		request.on('close', () => reject(new Refusal('cut_short', 400, 'the body ended before it was whole')));
		request.on('error', () => reject(new Refusal('cut_short', 400, 'the body ended before it was whole')));
		try {
			return await promise;
		} finally {
			timer.cancel();
			request.removeAllListeners('data');
			this.held -= bytes;
		}
	}
}

function tooLarge(): Refusal {
	return new Refusal('too_large', 413, `a webhook may have ${MAX_HOOK_BYTES} bytes`, 'the next smaller push brings this one, too');
}
