import { connect } from 'node:net';
import type { Clock } from '#clock/clock.ts';
import type { Outcome } from '#health/check.ts';

/** Connects, then sends one request by hand: `node:http`'s client costs ten times as much, and 24 starts wait for it. */
const MAX_HEAD_BYTES = 32 * 1024;

export function askHealth(address: string, path: string, timeoutMs: number, clock: Clock): Promise<Outcome> {
	return new Promise((resolve) => {
		let connected = false;
		let head = '';
		const socket = connect(target(address));
		const limit = clock.after(timeoutMs, () => finish({ type: 'timeout', after: connected ? 'request' : 'connect' }));
		const finish = (outcome: Outcome) => {
			limit.cancel();
			socket.destroy();
			resolve(outcome);
		};
		socket.on('connect', () => {
			connected = true;
			socket.write(`GET ${path} HTTP/1.1\r\nhost: localhost\r\nuser-agent: jibe-health\r\nconnection: close\r\n\r\n`);
		});
		socket.on('data', (bytes: Buffer) => {
			head += bytes.toString('latin1');
			const status = /^HTTP\/1\.[01] (\d{3})[ \r]/.exec(head);
			if (status && status[1] !== '100') finish({ type: 'answered', status: Number(status[1]) });
			else if (head.length > MAX_HEAD_BYTES || (!status && head.includes('\n'))) finish({ type: 'broken', code: 'no HTTP' });
		});
		socket.on('error', (error: NodeJS.ErrnoException) => {
			const code = error.code ?? error.message;
			finish(connected ? { type: 'broken', code } : { type: 'refused', code });
		});
		socket.on('end', () => finish({ type: 'broken', code: 'ended' }));
	});
}

function target(address: string): { path: string } | { host: string; port: number } {
	if (address.startsWith('unix:')) return { path: address.slice('unix:'.length) };
	const [, host, port] = /^tcp:(.*):(\d+)$/.exec(address) ?? [];
	return { host: host ?? '127.0.0.1', port: Number(port) };
}
