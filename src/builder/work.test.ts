import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, type IncomingMessage } from 'node:http';
import { existsSync, mkdirSync, mkdtempSync, rmSync, utimesSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { zstdCompressSync } from 'node:zlib';
import type { BuildJob, BuildLogLine } from '#wire/builds.ts';
import { connectControl } from './control.ts';
import type { OpenSteps, StepRunner } from './ground.ts';
import { jobOf, silent, tarOf, type Tree } from './testbed.ts';
import { work } from './work.ts';
import { Workshop } from './workshop.ts';

const SOURCE: Tree = {
	'jibe.json': '{"app":"notes","entry":"server.ts","build":{"wait":{"run":"wait","outputs":[]}}}',
	'package.json': '{"type":"module"}',
	'server.ts': "export default { fetch: () => new Response('hello') };\n",
};

interface Said {
	path: string;
	body: Record<string, unknown>;
}

/** A control that gives these jobs, one after the other, and answers as the test says. */
class Desk {
	readonly said: Said[] = [];
	url = '';
	jobs: BuildJob[];
	/** By the last word of the path; null: as usual. */
	answer: (what: string, body: Record<string, unknown>) => { status: number; json: unknown } | null = () => null;
	#heard: (() => void)[] = [];

	constructor(jobs: BuildJob[]) {
		this.jobs = jobs;
	}

	async open(t: TestContext): Promise<this> {
		const tar: Buffer[] = [];
		for await (const part of tarOf(SOURCE)) tar.push(part);
		const source = zstdCompressSync(Buffer.concat(tar));
		const server = createServer((request, response) => {
			void read(request).then((body) => {
				const path = (request.url ?? '').split('?', 1)[0]!;
				const what = path.split('/').at(-1)!;
				this.said.push({ path, body });
				for (const heard of this.#heard.splice(0)) heard();
				const own = this.answer(what, body);
				if (own) return response.writeHead(own.status).end(JSON.stringify(own.json));
				if (what === 'claim') {
					const job = this.jobs.shift();
					return job ? response.end(JSON.stringify({ job })) : response.writeHead(204).end();
				}
				if (what === 'source') return response.end(source);
				// A refusal ends a build as well as a deployment does.
				if (what === 'artifact') return response.writeHead(422).end(JSON.stringify({ error: { code: 'no', message: 'no', hint: null } }));
				// Held, as control does.
				if (what === 'beat') return undefined;
				return response.end(JSON.stringify({ stop: null, next: 0 }));
			});
		});
		server.listen(0, '127.0.0.1');
		await once(server, 'listening');
		this.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
		t.after(() => {
			server.closeAllConnections();
			server.close();
		});
		return this;
	}

	of(what: string): Said[] {
		return this.said.filter(({ path }) => path.endsWith(`/${what}`));
	}

	/** Resolves once that many were said. */
	async heard(what: string, count = 1): Promise<Said[]> {
		while (this.of(what).length < count) await new Promise<void>((resolve) => this.#heard.push(resolve));
		return this.of(what);
	}
}

async function read(request: IncomingMessage): Promise<Record<string, unknown>> {
	const parts: Buffer[] = [];
	for await (const part of request as AsyncIterable<Buffer>) parts.push(part);
	const text = Buffer.concat(parts).toString();
	return text.startsWith('{') ? (JSON.parse(text) as Record<string, unknown>) : {};
}

/** Steps that do what the test says. */
function steps(run: (ground: Parameters<OpenSteps>[0]) => Promise<void>): OpenSteps {
	return async (ground): Promise<StepRunner> => ({
		async run() {
			await run(ground);
			return { outputs: [], reports: [], savedBytes: 0, savedMs: 0 };
		},
		async close() {},
	});
}

const untilStopped = steps(
	({ attempt }) =>
		new Promise((_, reject) => {
			const stop = () => reject(new Error('killed'));
			if (attempt.stopped.aborted) stop();
			attempt.stopped.addEventListener('abort', stop);
		}),
);

function builder(t: TestContext, desk: Desk, openSteps: OpenSteps, idleMs: number | null = null) {
	const control = connectControl({ addresses: () => [desk.url], credential: () => 'secret' });
	const data = mkdtempSync(join(tmpdir(), 'jibe-builder-'));
	const workshop = new Workshop({ data, name: 'builder-0', server: 'local', allowUnsandboxed: false, log: silent });
	const [leaving, retiring] = [new AbortController(), new AbortController()];
	const signals = { leaving: leaving.signal, retiring: retiring.signal };
	const ended = work({ control, workshop, openSteps, server: 'local', idleMs, log: silent, ...signals });
	t.after(async () => {
		leaving.abort();
		await ended;
		control.close();
		await workshop.close();
		rmSync(data, { recursive: true });
	});
	return { ended, leaving, retiring };
}

test('downloads and what is known of checkouts go once nobody used them for a month, never those of today', async (t) => {
	const data = mkdtempSync(join(tmpdir(), 'jibe-builder-'));
	t.after(() => rmSync(data, { recursive: true }));
	const workshop = new Workshop({ data, name: 'builder-0', server: 'local', allowUnsandboxed: false, log: silent });
	const now = Date.now();
	const places = {
		'downloads/a/npm': 40,
		'downloads/a/pip': 2,
		'downloads/b/npm': 0,
		'cache/apps/old': 31,
		'cache/apps/new': 0,
		'cache/actions': 90,
	};
	for (const [place, days] of Object.entries(places)) {
		const path = join(data, 'builder', place);
		mkdirSync(path, { recursive: true });
		utimesSync(path, now / 1000 - days * 86_400, now / 1000 - days * 86_400);
	}
	await workshop.tidy(now);
	const left = Object.keys(places).filter((place) => existsSync(join(data, 'builder', place)));
	assert.deepEqual(left, ['downloads/a/pip', 'downloads/b/npm', 'cache/apps/new', 'cache/actions']);
	await workshop.close();
});

test('without a job for a while it ends; told to retire, it ends after its job', async (t) => {
	await builder(t, await new Desk([]).open(t), untilStopped, 50).ended;

	const desk = await new Desk([jobOf(), jobOf({ id: 'dpl_8m4k92xy' })]).open(t);
	let go = () => {};
	const running = new Promise<void>((resolve) => (go = resolve));
	const { ended, retiring } = builder(
		t,
		desk,
		steps(() => running),
	);
	await desk.heard('source');
	retiring.abort();
	go();
	await ended;
	assert.equal(desk.jobs.length, 1, 'the next job is for others');
	assert.equal(desk.of('artifact').length, 1);
});

test('a job that comes with the answer to an end is taken, and who retires asks for none', async (t) => {
	const desk = await new Desk([jobOf({ app: 'other' })]).open(t);
	const second = jobOf({ id: 'dpl_8m4k92xy', app: 'other' });
	let retire = () => {};
	desk.answer = (what, body) => {
		if (what === 'source' && desk.of('source').length === 2) retire();
		return what === 'end' && body['next'] !== undefined ? { status: 200, json: { job: second } } : null;
	};
	const { ended, retiring } = builder(t, desk, untilStopped);
	retire = () => retiring.abort();
	await ended;
	assert.deepEqual([desk.of('claim').length, desk.of('end').map(({ body }) => body['next'] !== undefined)], [1, [true, false]]);
	assert.match(desk.of('end')[1]!.path, /dpl_8m4k92xy/);
});

test('a job that a person cancels: what runs is killed, and that is its end', async (t) => {
	const desk = await new Desk([jobOf()]).open(t);
	desk.answer = (what) => (what === 'beat' && desk.of('source').length > 0 ? { status: 200, json: { stop: 'cancelled' } } : what === 'beat' ? { status: 200, json: { stop: null } } : null); // prettier-ignore
	builder(t, desk, untilStopped);
	const body = (await desk.heard('end'))[0]!.body;
	assert.deepEqual([body['state'], body['reason'], body['attempt']], ['Cancelled', 'cancelled', 1]);
});

test('who was fenced says nothing more: another one has the job', async (t) => {
	const desk = await new Desk([jobOf()]).open(t);
	const fenced = { status: 409, json: { error: { code: 'fenced', message: 'another has it', hint: null } } };
	desk.answer = (what) => (what === 'beat' && desk.of('source').length > 0 ? fenced : what === 'beat' ? { status: 200, json: { stop: null } } : null); // prettier-ignore
	builder(t, desk, untilStopped);
	await desk.heard('claim', 2);
	assert.deepEqual([desk.of('end'), desk.of('artifact')], [[], []]);
});

test('a fault of the source ends the build; a fault of the machine leaves it to another attempt', async (t) => {
	const desk = await new Desk([jobOf({ app: 'other' })]).open(t);
	builder(t, desk, untilStopped);
	const body = (await desk.heard('end'))[0]!.body;
	assert.deepEqual([body['state'], body['reason']], ['BuildFailed', 'app_mismatch']);

	const sick = await new Desk([jobOf()]).open(t);
	const broken = steps(() => Promise.reject(new Error('the disk is on fire')));
	builder(t, sick, broken);
	const lines = (await sick.heard('log')).flatMap((one) => one.body['lines'] as BuildLogLine[]);
	assert.match(lines.at(-1)?.text ?? '', /another attempt is made: the disk is on fire/);
	assert.deepEqual(sick.of('end'), []);
	const [first, second] = await sick.heard('claim', 2);
	assert.notEqual(second?.body['worker'], first?.body['worker'], 'so that it is not given the same attempt again');
});

test('lines are numbered, whole, and without secrets', async (t) => {
	const desk = await new Desk([jobOf({ secrets: { TOKEN: 'correct-horse-battery' } })]).open(t);
	const chatty = steps(async ({ attempt }) => {
		const print = attempt.printer('wait');
		for (const piece of ['first\nsec', 'ond correct-horse-', 'battery\nla', 'st']) print.write('out', Buffer.from(piece));
		print.end();
		await attempt.flush();
	});
	builder(t, desk, chatty);
	await desk.heard('artifact');
	const batches = desk.of('log').map(({ body }) => [body['from'], (body['lines'] as BuildLogLine[]).map(({ text }) => text)] as const);
	assert.deepEqual(
		batches.flatMap(([, texts]) => texts),
		['first', 'second [secret TOKEN]', 'last'],
	);
	let next = 0;
	for (const [from, texts] of batches) {
		assert.equal(from, next);
		next += texts.length;
	}
});
