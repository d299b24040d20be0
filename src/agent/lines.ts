import type { Socket } from 'node:net';

/** JSON, one value a line: how an agent and its instances talk over a unix socket. */

/** Longer than any line either side sends; a peer that exceeds it is cut off. */
export const MAX_LINE_BYTES = 1024 * 1024;

export function sendLine(socket: Socket, message: object): void {
	if (!socket.destroyed) socket.write(`${JSON.stringify(message)}\n`);
}

/** Calls `onLine` for each line; destroys the socket at one that is too long or no JSON object. */
export function receiveLines(socket: Socket, onLine: (message: Record<string, unknown>) => void): void {
	let rest = '';
	socket.setEncoding('utf8');
	socket.on('data', (text: string) => {
		rest += text;
		for (let end = rest.indexOf('\n'); end >= 0; end = rest.indexOf('\n')) {
			const message = parse(rest.slice(0, end));
			rest = rest.slice(end + 1);
			if (!message) return void socket.destroy(new Error('a line on the control socket is not a JSON object'));
			onLine(message);
		}
		if (rest.length > MAX_LINE_BYTES) socket.destroy(new Error(`a line on the control socket is longer than ${MAX_LINE_BYTES} bytes`));
	});
}

function parse(line: string): Record<string, unknown> | null {
	try {
		const value: unknown = JSON.parse(line);
		return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : null;
	} catch {
		return null;
	}
}
