import { once } from 'node:events';
import { mkdtempSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import type { Deployment } from '#wire/api.ts';
import type { Exit } from './failure.ts';
import { run } from './run.ts';

/** For the stories of this room: a small HTTP server that answers as control does, and the command in this process. */
export interface Stage {
	data: string;
	/** `METHOD path?query` and body of every request, in order. */
	asked: { what: string; body: string; token: string }[];
	/** What the server does, by `METHOD path` without the query. */
	answers: Record<string, Answer>;
	jibe(...words: string[]): Promise<{ exit: Exit; out: string; err: string; json: Record<string, unknown> }>;
	port: number;
}

/** An object is a 200 with JSON; an array is NDJSON; a function does it itself. */
type Answer = object | object[] | ((request: IncomingMessage, response: ServerResponse) => void);

export async function openStage(t: TestContext, answers: Record<string, Answer> = {}): Promise<Stage> {
	const data = temporary(t, 'jibe-cli-');
	const asked: Stage['asked'] = [];
	const stage: Stage = { data, asked, answers, jibe, port: 0 };
	const server = createServer((request, response) => void answer(request, response));
	server.listen(0, '127.0.0.1');
	await once(server, 'listening');
	t.after(() => {
		server.closeAllConnections();
		server.close();
	});
	stage.port = (server.address() as AddressInfo).port;
	writeFileSync(join(data, 'endpoint.json'), JSON.stringify({ url: `http://127.0.0.1:${stage.port}` }));
	writeFileSync(join(data, 'admin.token'), 'secret\n');
	return stage;

	async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
		let body = '';
		for await (const chunk of request) body += String(chunk);
		asked.push({ what: `${request.method} ${request.url}`, body, token: request.headers.authorization ?? '' });
		const reply = stage.answers[`${request.method} ${request.url?.split('?')[0]}`];
		if (reply === undefined) refuse(response, 404, 'unknown', 'there is no such thing');
		else if (typeof reply === 'function') reply(request, response);
		else if (Array.isArray(reply)) response.end(reply.map((line) => `${JSON.stringify(line)}\n`).join(''));
		else response.end(JSON.stringify(reply));
	}

	async function jibe(...words: string[]) {
		let [out, err] = ['', ''];
		const sinks = { out: (text: string) => void (out += text), err: (text: string) => void (err += text), live: false };
		const exit = await run([...words, '--data', data], sinks);
		const last = out.trimEnd().split('\n').at(-1) ?? '';
		return { exit, out, err, json: last.startsWith('{') ? (JSON.parse(last) as Record<string, unknown>) : {} };
	}
}

export function refuse(response: ServerResponse, status: number, code: string, message: string, data?: unknown): void {
	response.writeHead(status, { 'content-type': 'application/json' });
	response.end(JSON.stringify({ error: { code, message, hint: 'do something else', data } }));
}

export function temporary(t: TestContext, prefix: string): string {
	const directory = realpathSync(mkdtempSync(join(tmpdir(), prefix)));
	t.after(() => rmSync(directory, { recursive: true, force: true }));
	return directory;
}

export function deploymentOf(more: Partial<Deployment> = {}): Deployment {
	return {
		id: 'dpl_7m4k92xy',
		app: 'notes',
		environment: 'production',
		kind: 'deploy',
		release: 42,
		previous: 41,
		artifact: `sha256:${'a'.repeat(64)}`,
		commit: null,
		branch: null,
		dirty: false,
		state: 'Deployed',
		reason: null,
		detail: null,
		cause: null,
		by: 'token:admin',
		why: null,
		createdAt: 1_000_000,
		endedAt: 1_000_100,
		watchUntil: 1_300_000,
		regions: [
			{ name: 'fra', state: 'live', ms: 12, reason: null },
			{ name: 'ams', state: 'live', ms: 15, reason: null },
		],
		stages: [],
		timings: { prepareMs: 5, canaryMs: 6, rolloutMs: 7 },
		canary: { region: 'fra', status: 200, p50Ms: 3.2, maxMs: 9 },
		modules: { compiled: 3, cached: 214 },
		coldStarts: 0,
		url: 'http://notes.localhost:8080',
		...more,
	};
}
