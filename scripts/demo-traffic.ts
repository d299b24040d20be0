import { Agent, request as httpRequest, type IncomingHttpHeaders } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';

/** The users of the demo: each region is asked all the time, over kept-alive connections, and what fails is counted. */
export class Traffic {
	/** Requests per second in each region. */
	rate = 2;
	#asked = 0;
	#failed = 0;
	#stopping = false;
	readonly #users: Promise<void>[];
	readonly #agent = new Agent({ keepAlive: true });

	constructor(regions: readonly { url: string }[], host: string, path: string) {
		this.#users = regions.map(({ url }) => this.#use(url, host, path));
	}

	/** What was counted since the last time. */
	take(): { asked: number; failed: number } {
		const counted = { asked: this.#asked, failed: this.#failed };
		this.#asked = 0;
		this.#failed = 0;
		return counted;
	}

	async stop(): Promise<void> {
		this.#stopping = true;
		await Promise.all(this.#users);
		this.#agent.destroy();
	}

	async #use(url: string, host: string, path: string): Promise<void> {
		while (!this.#stopping) {
			const status = await send(url, host, path, { agent: this.#agent }).then(
				(answer) => answer.status,
				() => 0,
			);
			this.#asked++;
			if (status !== 200) this.#failed++;
			await delay(1000 / this.rate);
		}
	}
}

export interface Answer {
	status: number;
	headers: IncomingHttpHeaders;
	json: Record<string, unknown>;
}

export function get(url: string, host: string, path: string): Promise<Answer> {
	return send(url, host, path, {});
}

export function post(url: string, host: string, path: string, body: unknown): Promise<Answer> {
	return send(url, host, path, { body: JSON.stringify(body) });
}

const ANSWER_LIMIT_MS = 15_000;

/** As `curl -H "Host: …" http://127.0.0.1:…` does: not every resolver knows `*.localhost`. */
function send(url: string, host: string, path: string, options: { agent?: Agent; body?: string }): Promise<Answer> {
	const { agent = false as const, body } = options;
	return new Promise((resolve, reject) => {
		const ask = { method: body === undefined ? 'GET' : 'POST', headers: { host }, agent, timeout: ANSWER_LIMIT_MS };
		const request = httpRequest(`${url}${path}`, ask, (response) => {
			let text = '';
			response.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
			response.once('error', reject);
			response.once('end', () => resolve({ status: response.statusCode ?? 0, headers: response.headers, json: parse(text) }));
		});
		request.once('timeout', () => request.destroy(new Error(`no answer from ${url} within ${ANSWER_LIMIT_MS} ms`)));
		request.once('error', reject);
		request.end(body);
	});
}

function parse(text: string): Record<string, unknown> {
	try {
		return JSON.parse(text) as Record<string, unknown>;
	} catch {
		return { text };
	}
}
