import type { ServerResponse } from 'node:http';
import type { Clock, Timer } from '#clock/clock.ts';
import { FLUSH, onBand, pktLine } from './pkt-line.ts';

/** The answer to a push, as its git shows it to a person: what became of each branch, then words while it goes on. */

/** A line that is silent for longer is cut by what lies between. */
const ALIVE_EACH_MS = 5_000;
/** Somebody who reads slower than this is not waited for. */
const MAX_UNREAD_BYTES = 4 * 1024 * 1024;
const MAX_LINE_CHARS = 2_000;

/** `problem`: why it is not as was asked; null: it is. */
export interface Outcome {
	ref: string;
	problem: string | null;
}

export class PushAnswer {
	private readonly response: ServerResponse;
	/** Without it there is no place for words beside the report. */
	private readonly sideband: boolean;
	private readonly alive: Timer;

	constructor(response: ServerResponse, sideband: boolean, clock: Clock) {
		this.response = response;
		this.sideband = sideband;
		this.alive = clock.every(ALIVE_EACH_MS, () => this.write(onBand(2, '')));
		response.once('close', () => this.alive.cancel());
		response.writeHead(200, { 'content-type': 'application/x-git-receive-pack-result', 'cache-control': 'no-store' });
	}

	/** Said last: git shows it as the end of the push, and ends with an error where one has a problem. */
	report(refs: readonly Outcome[]): void {
		const lines = refs.map(({ ref, problem }) =>
			pktLine(problem === null ? `ok ${ref}\n` : `ng ${ref} ${printable(problem).replaceAll('\n', ' ')}\n`),
		);
		const report = Buffer.concat([pktLine('unpack ok\n'), ...lines, Buffer.from(FLUSH)]);
		if (this.sideband) this.write(onBand(1, report));
		else this.response.write(report);
	}

	say(line: string): void {
		for (const one of line.split('\n')) this.write(onBand(2, `${printable(one)}\n`));
	}

	end(): void {
		this.alive.cancel();
		this.response.end(this.sideband ? FLUSH : undefined);
	}

	private write(bytes: Buffer): void {
		if (!this.sideband || this.response.writableEnded || this.response.destroyed) return;
		this.response.write(bytes);
		if (this.response.writableLength > MAX_UNREAD_BYTES) this.response.destroy();
	}
}

const ESCAPES = new RegExp(`${String.fromCharCode(0x1b)}\\[[0-9;?]*[ -/]*[@-~]`, 'g');

/** Words of a build go to a terminal: they must not steer it. */
export function printable(text: string): string {
	return Array.from(text.replace(ESCAPES, ''))
		.filter((char) => char === '\t' || char === '\n' || !isControl(char.codePointAt(0)!))
		.join('')
		.slice(0, MAX_LINE_CHARS);
}

function isControl(code: number): boolean {
	return code < 0x20 || (code >= 0x7f && code <= 0x9f);
}
