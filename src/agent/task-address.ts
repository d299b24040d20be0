import { createServer, request, type IncomingMessage, type RequestOptions, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

/** Where a smoke test asks: an address of its own on this machine, behind which is one instance, or an edge that knows the app by name. */
export interface TaskAddress {
	url: string;
	close(): void;
}

export type Behind = { socketPath: string } | { host: string; port: number; name: string };

export function openTaskAddress(behind: Behind): Promise<TaskAddress> {
	const server = createServer((asked, answer) => pass(behind, asked, answer));
	return new Promise((resolve, reject) => {
		server.once('error', reject);
		server.listen(0, '127.0.0.1', () => {
			const { port } = server.address() as AddressInfo;
			resolve({
				url: `http://127.0.0.1:${port}`,
				close() {
					server.close();
					server.closeAllConnections();
				},
			});
		});
	});
}

function pass(behind: Behind, asked: IncomingMessage, answer: ServerResponse): void {
	const { method, url } = asked;
	const of: RequestOptions = {
		method,
		path: url,
		agent: false,
		headers: { ...asked.headers, ...('name' in behind ? { host: behind.name } : {}) },
		...('name' in behind ? { host: behind.host, port: behind.port } : behind),
	};
	const onward = request(of, (response) => {
		answer.writeHead(response.statusCode ?? 502, response.headers);
		response.on('error', () => answer.destroy()).pipe(answer);
	});
	// As an edge would say it: the test sees that nobody was there.
	onward.on('error', (error) => (answer.headersSent ? answer.destroy() : answer.writeHead(502).end(`${error.message}\n`)));
	answer.on('close', () => onward.destroy());
	asked.pipe(onward);
}
