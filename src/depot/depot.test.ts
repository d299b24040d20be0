import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, request as httpRequest } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { systemClock as clock } from '#clock/clock.ts';
import { sha256, type Digest } from '#digest/digest.ts';
import { createLog } from '#log/log.ts';
import { manifestOf, treeOf, type Entry } from '#store/manifest.ts';
import { acceptLinks, type ServerLink } from '#wire/accept.ts';
import { issueCredential, newSigningKey } from '#wire/credential.ts';
import { dial, type Link } from '#wire/link.ts';
import {
	WIRE_VERSION,
	type DownMessage,
	type Hello,
	type Instance,
	type Known,
	type ReleaseSpec,
	type Role,
	type UpMessage,
	type Want,
} from '#wire/region.ts';
import { decodeUpload, encodeUpload } from '#wire/upload.ts';
import { openDepot, type Depot } from './depot.ts';
import { releaseSpec } from '#wire/fixture.ts';

const log = createLog({}, { write: () => {} });
const key = newSigningKey();
const REGIONS = ['fra', 'ams'];

test('a want goes to those that serve its region, and whoever comes later gets the newest', async (t) => {
	const house = await start(t);
	const agent = house.join('agent', 'agent', REGIONS);
	const ams = house.join('edge', 'edge-ams', ['ams']);
	await agent.next('welcome');
	await ams.next('welcome');
	const control = await house.control();
	control.send({ type: 'wants', wants: [want('fra', 3, 1)], releases: [spec(1)], gift: null });
	control.send({ type: 'wants', wants: [want('fra', 4, 2), want('ams', 4, 2)], releases: [spec(2)], gift: null });
	assert.equal((await agent.next('wants')).wants.length, 1);
	const second = await agent.next('wants');
	assert.deepEqual(second.wants.map(({ region, version }) => [region, version]), [['fra', 4], ['ams', 4]]); // prettier-ignore
	const theirs = await ams.next('wants');
	assert.deepEqual(theirs.wants.map(({ region }) => region), ['ams']); // prettier-ignore
	assert.deepEqual(theirs.releases.map(({ release }) => release), [2]); // prettier-ignore
	control.send({ type: 'wants', wants: [want('fra', 2, 1)], releases: [spec(1)], gift: null });
	const late = house.join('edge', 'edge-late', REGIONS, [known('ams', 4)]);
	const told = await late.next('wants');
	assert.deepEqual(told.wants.map(({ region, version }) => [region, version]), [['fra', 4]]); // prettier-ignore
});

test('with control away a restarted depot still says what it last heard, and where instances are', async (t) => {
	const house = await start(t);
	const agent = house.join('agent', 'agent', REGIONS);
	const control = await house.control();
	await agent.next('welcome');
	control.send({ type: 'wants', wants: [want('fra', 3, 1)], releases: [spec(1)], gift: null });
	await agent.next('wants');
	agent.link.send(instances('fra', [instance('i1', 1)]));
	await house.heard('instances');
	agent.link.close();
	await house.loseControl();
	await house.restart();
	const edge = house.join('edge', 'edge-0', REGIONS);
	assert.equal((await edge.next('wants')).wants[0]?.version, 3);
	assert.equal((await edge.next('instances')).groups[0]?.instances[0]?.id, 'i1');
});

test('control hears who is connected and what they said, also after it was away', async (t) => {
	const house = await start(t);
	await house.control();
	const agent = house.join('agent', 'agent', REGIONS);
	const edge = house.join('edge', 'edge-0', REGIONS);
	await agent.next('welcome');
	await edge.next('welcome');
	agent.link.send(instances('fra', [instance('i1', 1)]));
	edge.link.send({ type: 'applied', server: 'local', edge: 'edge-0', items: [known('fra', 3)] });
	await edge.next('instances');
	await house.heard('applied');
	await house.loseControl();
	await house.beControl();
	const link = await house.control();
	assert.equal(link.hello.role, 'depot');
	assert.deepEqual(await house.heard('presence'), {
		type: 'presence',
		regions: REGIONS.map((region) => ({ region, agents: [{ server: 'local' }], edges: [{ server: 'local', name: 'edge-0' }] })),
	});
	assert.equal((await house.heard('instances')).groups[0]?.instances[0]?.id, 'i1');
	assert.deepEqual(await house.heard('applied'), { type: 'applied', server: 'local', edge: 'edge-0', items: [known('fra', 3)] });
});

test('agents hear that a version is settled once the last edge of the region obeys it', async (t) => {
	const house = await start(t);
	const agent = house.join('agent', 'agent', REGIONS);
	const first = house.join('edge', 'edge-0', ['fra']);
	const second = house.join('edge', 'edge-1', ['fra']);
	const elsewhere = house.join('edge', 'edge-2', ['ams']);
	for (const program of [agent, first, second, elsewhere]) await program.next('welcome');
	first.link.send({ type: 'applied', server: 'local', edge: 'edge-0', items: [known('fra', 4)] });
	second.link.send({ type: 'applied', server: 'local', edge: 'edge-1', items: [known('fra', 3)] });
	assert.deepEqual((await agent.next('settled')).items, [known('fra', 3)]);
	second.link.send({ type: 'applied', server: 'local', edge: 'edge-1', items: [known('fra', 4)] });
	assert.deepEqual((await agent.next('settled')).items, [known('fra', 4)]);
	const late = house.join('agent', 'agent-late', REGIONS);
	assert.deepEqual((await late.next('settled')).items, [known('fra', 4)]);
});

test('an edge asked to probe answers through the depot; without one, control hears so', async (t) => {
	const house = await start(t);
	const control = await house.control();
	const of = { region: 'fra', app: 'notes', environment: 'production' };
	const ask: Of<DownMessage, 'probe'> = { type: 'probe', id: 'p1', ...of, releases: [1], discard: 0, count: 1 };
	control.send(ask);
	assert.match((await house.heard('probed')).error ?? '', /no edge of fra/);
	const edge = house.join('edge', 'edge-0', REGIONS);
	await edge.next('welcome');
	control.send(ask);
	assert.equal((await edge.next('probe')).id, 'p1');
	edge.link.send({ type: 'probed', id: 'p1', samples: [{ release: 1, status: 200, ms: 2 }], error: null });
	assert.equal((await house.heard('probed')).samples[0]?.status, 200);
	control.send({ ...ask, id: 'p2' });
	await edge.next('probe');
	edge.link.close();
	assert.match((await house.heard('probed')).error ?? '', /went away/);
});

test('log lines of all agents of a region end once, with the last of them', async (t) => {
	const house = await start(t);
	const control = await house.control();
	const one = house.join('agent', 'one', ['fra']);
	const two = house.join('agent', 'two', ['fra'], [], 'other');
	await one.next('welcome');
	await two.next('welcome');
	control.send({
		type: 'logsWanted',
		id: 'l1',
		region: 'fra',
		app: 'notes',
		environment: 'production',
		since: 0,
		follow: false,
		maxLines: 10,
	});
	await one.next('logsWanted');
	await two.next('logsWanted');
	one.link.send({ type: 'logLines', id: 'l1', lines: [line('a')], end: true });
	assert.equal((await house.heard('logLines')).end, false);
	two.link.send({ type: 'logLines', id: 'l1', lines: [line('b')], end: true });
	assert.equal((await house.heard('logLines')).end, true);
});

test('blobs of a placed release come through the depot, fetched once for all who ask; others are not served', async (t) => {
	const house = await start(t);
	const control = await house.control();
	const files = { 'modules/a.ts': 'export default 1', 'files/t.html': '<p>', 'files/u.html': '<p>u' };
	const root = house.publish(files);
	const secret = house.publish({ 'modules/other.ts': 'another app' });
	const agent = house.join('agent', 'agent', REGIONS);
	await agent.next('welcome');
	control.send({ type: 'wants', wants: [want('fra', 1, 1)], releases: [{ ...spec(1), artifact: root }], gift: null });
	await agent.next('wants');
	const credential = house.credential('agent', REGIONS);
	const tree = JSON.parse((await house.get(`/trees/${root}`, credential)).body) as { set: Record<string, Entry> };
	assert.deepEqual(Object.keys(tree.set), ['files/t.html', 'files/u.html', 'modules/a.ts']);
	const asked = Array.from({ length: 20 }, () => house.get(`/blobs/${sha256('<p>')}`, credential));
	for (const answer of await Promise.all(asked)) assert.equal(answer.body, '<p>');
	assert.ok(house.asked(sha256('<p>')) <= 1, `control was asked ${house.asked(sha256('<p>'))} times`);
	await house.loseControl();
	assert.equal((await house.get(`/blobs/${sha256('export default 1')}`, credential)).body, 'export default 1');
	assert.equal((await house.get(`/trees/${secret}`, credential)).status, 404);
	assert.equal((await house.get(`/blobs/${sha256('another app')}`, credential)).status, 404);
	assert.equal((await house.get(`/trees/${root}`, house.credential('edge', REGIONS))).status, 403);
	assert.equal((await house.get(`/trees/${root}`, 'forged.forged')).status, 401);
});

test('a gift makes fetching unnecessary', async (t) => {
	const house = await start(t);
	const control = await house.control();
	const agent = house.join('agent', 'agent', REGIONS);
	await agent.next('welcome');
	const files = { 'modules/a.ts': 'export default 2' };
	const { root } = treeOf(manifest(files));
	const gift = {
		artifact: root,
		base: null,
		set: Object.fromEntries(manifest(files)) as never,
		delete: [],
		blobs: { [sha256('export default 2')]: btoa('export default 2') },
	};
	control.send({ type: 'wants', wants: [want('fra', 1, 1)], releases: [{ ...spec(1), artifact: root }], gift });
	assert.equal((await agent.next('wants')).gift?.artifact, root);
	const credential = house.credential('agent', REGIONS);
	assert.equal((await house.get(`/trees/${root}`, credential)).status, 200);
	assert.equal((await house.get(`/blobs/${sha256('export default 2')}`, credential)).body, 'export default 2');
	assert.equal(house.asked(root), 0);
});

test('what a gift leaves out is fetched at once, in one question', async (t) => {
	const house = await start(t);
	const files = { 'a.txt': 'in the gift', 'b.txt': 'uploaded before', 'c.txt': 'and this too' };
	const root = house.publish(files);
	const control = await house.control();
	const agent = house.join('agent', 'agent', ['fra']);
	await agent.next('welcome');
	const set = Object.fromEntries(manifest(files)) as never;
	const gift = { artifact: root, base: null, set, delete: [], blobs: { [sha256(files['a.txt'])]: Buffer.from(files['a.txt']).toString('base64') } }; // prettier-ignore
	control.send({ type: 'wants', wants: [want('fra', 1, 1)], releases: [{ ...spec(1), artifact: root }], gift });
	await agent.next('wants');
	const bearer = house.credential('agent', ['fra']);
	for (const text of Object.values(files)) assert.equal((await house.get(`/blobs/${sha256(text)}`, bearer)).body, text);
	assert.deepEqual([house.questions(), house.asked(sha256(files['a.txt'])), house.asked(sha256(files['b.txt']))], [1, 0, 1]);
});

test('what control sends is checked against its digest', async (t) => {
	const house = await start(t);
	const control = await house.control();
	const agent = house.join('agent', 'agent', REGIONS);
	await agent.next('welcome');
	const root = house.publish({ 'modules/a.ts': 'true' });
	house.tamper(sha256('true'), 'tampered');
	control.send({ type: 'wants', wants: [want('fra', 1, 1)], releases: [{ ...spec(1), artifact: root }], gift: null });
	await agent.next('wants');
	const answer = await house.get(`/blobs/${sha256('true')}`, house.credential('agent', REGIONS));
	assert.equal(answer.status, 503);
	assert.match(answer.body, /another digest/);
});

test('many blobs come in one answer', async (t) => {
	const house = await start(t);
	const control = await house.control();
	const root = house.publish({ 'a.ts': 'a', 'b.ts': 'b' });
	control.send({ type: 'wants', wants: [want('fra', 1, 1)], releases: [{ ...spec(1), artifact: root }], gift: null });
	const agent = house.join('agent', 'agent', REGIONS);
	await agent.next('wants');
	const answer = await house.post('/blobs', { digests: [sha256('a'), sha256('b')] }, house.credential('agent', REGIONS));
	assert.deepEqual([...decodeUpload(answer).blobs.keys()].toSorted(), [sha256('a'), sha256('b')].toSorted());
});

function want(region: string, version: number, release: number): Want {
	return {
		app: 'notes',
		environment: 'production',
		region,
		epoch: 1,
		version,
		deployment: null,
		pointer: { primary: release, candidate: null, hold: null },
		run: [{ release, instances: 1, as: 'serving' }],
	};
}

function known(region: string, version: number): Known {
	return { region, app: 'notes', environment: 'production', epoch: 1, version };
}

function spec(release: number): ReleaseSpec {
	return releaseSpec(release, { artifact: sha256(`artifact ${release}`) });
}

function instance(id: string, release: number): Instance {
	const rest = { pid: 1, reason: null, detail: null, restarts: 0, cold: false, timings: null };
	return { id, release, state: 'serving', healthy: true, address: `unix:/tmp/${id}.sock`, ...rest };
}

function instances(region: string, list: Instance[]): UpMessage {
	return { type: 'instances', server: 'local', groups: [{ region, app: 'notes', environment: 'production', instances: list }] };
}

function line(text: string) {
	return { at: 0, region: 'fra', instance: 'i1', release: 1, stream: 'out' as const, text };
}

function manifest(files: Record<string, string>) {
	return manifestOf(Object.entries(files).map(([path, text]) => [path, [sha256(text), Buffer.byteLength(text), false]] as const));
}

type Of<M extends { type: string }, T extends M['type']> = Extract<M, { type: T }>;

/** Messages as they come; `next` waits for one of a type and drops those before it. */
function inbox<M extends { type: string }>() {
	const seen: M[] = [];
	let wake = () => {};
	return {
		push(message: M) {
			seen.push(message);
			wake();
		},
		async next<T extends M['type']>(type: T): Promise<Of<M, T>> {
			for (;;) {
				for (let message = seen.shift(); message; message = seen.shift()) if (message.type === type) return message as Of<M, T>;
				await new Promise<void>((resolve) => (wake = resolve));
			}
		},
	};
}

interface Program {
	link: Link;
	next<T extends DownMessage['type']>(type: T): Promise<Of<DownMessage, T>>;
}

/** A depot between a control played by the test (its end of the wire is the real one) and programs that dial. */
async function start(t: TestContext) {
	const dir = mkdtempSync(join(tmpdir(), 'jibe-depot-'));
	const socket = join(dir, 'd.sock');
	const blobs = new Map<Digest, string>();
	const trees = new Map<Digest, object>();
	const askedFor: string[] = [];
	const closers: (() => void)[] = [];
	const heard = inbox<UpMessage>();
	let waiting = Promise.withResolvers<ServerLink>();
	let port = 0;
	let questions = 0;
	let stopControl = async () => {};
	const credential = (role: Role, regions: string[], server = 'local') =>
		issueCredential({ installation: 'here', role, server, regions, expires: 4_000_000_000 }, key.privatePem);

	async function beControl(): Promise<void> {
		const server = createServer((request, response) => {
			const [, kind, name] = (request.url ?? '').split('/') as [string, string, Digest | undefined];
			if (name) askedFor.push(name);
			if (request.method === 'POST') questions++;
			const found = kind === 'trees' ? JSON.stringify(trees.get(name!)) : blobs.get(name!);
			if (request.method === 'GET') return response.writeHead(found === undefined ? 404 : 200).end(found);
			let body = '';
			request.on('data', (part: Buffer) => (body += part.toString()));
			request.on('end', () => {
				const { digests } = JSON.parse(body) as { digests: Digest[] };
				askedFor.push(...digests);
				response.end(encodeUpload({}, digests.flatMap((digest) => (blobs.has(digest) ? Buffer.from(blobs.get(digest)!) : [])))); // prettier-ignore
			});
		});
		const acceptor = acceptLinks(server, {
			path: '/link',
			authenticate: () => ({ installation: 'here', role: 'depot', server: 'local', regions: REGIONS, expires: 4_000_000_000 }),
			onLink: (link) => {
				waiting.resolve(link);
				return { onMessage: (message) => heard.push(message), onClosed: () => {} };
			},
			log,
			clock,
		});
		server.listen(port, '127.0.0.1');
		await once(server, 'listening');
		({ port } = server.address() as AddressInfo);
		stopControl = async () => {
			stopControl = async () => {};
			acceptor.close();
			server.closeAllConnections();
			server.close();
			await once(server, 'close');
			waiting = Promise.withResolvers();
		};
	}

	await beControl();
	const open = (): Promise<Depot> =>
		openDepot({
			dir: join(dir, 'depot'),
			socket,
			regions: REGIONS,
			upstreams: [`http://127.0.0.1:${port}`],
			credential: () => ({ credential: credential('depot', REGIONS), publicKey: key.publicPem, installation: 'here' }),
			log,
			clock,
		});
	let depot = await open();
	t.after(async () => {
		for (const close of closers) close();
		await depot.close();
		await stopControl();
		rmSync(dir, { recursive: true });
	});

	return {
		beControl,
		credential,
		heard: <T extends UpMessage['type']>(type: T) => heard.next(type),
		control: () => waiting.promise,
		loseControl: () => stopControl(),
		async restart() {
			await depot.close();
			depot = await open();
		},
		join(role: 'agent' | 'edge', name: string, regions: string[], known: Known[] = [], server = 'local'): Program {
			const messages = inbox<DownMessage>();
			const hello: Hello = { type: 'hello', wire: WIRE_VERSION, role, server, name, regions, known };
			const link = dial({
				url: `ws+unix:${socket}:/link`,
				credential: () => credential(role, REGIONS, server),
				hello: () => hello,
				onMessage: (message) => messages.push(message),
				log,
				clock,
			});
			closers.push(() => link.close());
			return { link, next: (type) => messages.next(type) };
		},
		publish(files: Record<string, string>): Digest {
			const all = manifest(files);
			for (const text of Object.values(files)) blobs.set(sha256(text), text);
			const { root } = treeOf(all);
			trees.set(root, { set: Object.fromEntries(all) });
			return root;
		},
		tamper: (digest: Digest, text: string) => void blobs.set(digest, text),
		questions: () => questions,
		asked: (name: string) => askedFor.filter((asked) => asked === name).length,
		post(path: string, body: object, bearer: string): Promise<Buffer> {
			return new Promise((resolve, reject) => {
				const options = { socketPath: socket, path, method: 'POST', headers: { authorization: `Bearer ${bearer}` } };
				const asking = httpRequest(options, (response) => {
					const parts: Buffer[] = [];
					response.on('data', (part: Buffer) => parts.push(part));
					response.on('end', () => resolve(Buffer.concat(parts)));
				});
				asking.on('error', reject).end(JSON.stringify(body));
			});
		},
		get(path: string, bearer: string): Promise<{ status: number; body: string }> {
			return new Promise((resolve, reject) => {
				const asking = httpRequest({ socketPath: socket, path, headers: { authorization: `Bearer ${bearer}` } }, (response) => {
					let body = '';
					response.on('data', (part: Buffer) => (body += part.toString()));
					response.on('end', () => resolve({ status: response.statusCode ?? 0, body }));
				});
				asking.on('error', reject).end();
			});
		},
	};
}
