import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type RequestListener } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { systemClock as clock } from '#clock/clock.ts';
import { sha256 } from '#digest/digest.ts';
import { createLog } from '#log/log.ts';
import { Peers } from '#wire/peers.ts';
import { createPeerHttps, listenForPeers } from '#wire/tls-listener.ts';
import { encodeUpload } from '#wire/upload.ts';
import { listOf, openAuthority } from '../../test/fixtures/certificates.ts';
import { createDepotClient } from './depot-client.ts';

const log = createLog({}, { write: () => {} });
const BLOB = sha256('true');

test('what the depot of this server lacks, or can not get, another depot of the region gives', async (t) => {
	const house = await region(t);
	assert.equal((await house.client.blob(BLOB)).toString(), 'true');
	assert.deepEqual(house.asked, ['own'], 'the one on this server is enough');
	house.answers.own = (_request, response) => void response.writeHead(503).end();
	assert.equal((await house.client.blob(BLOB)).toString(), 'true');
	house.answers.own = (_request, response) => void response.writeHead(404).end('{"error":{"message":"not placed"}}');
	assert.equal((await house.client.blob(BLOB)).toString(), 'true');
	await house.stopOwn();
	assert.equal((await house.client.blob(BLOB)).toString(), 'true');
	assert.deepEqual(house.asked, ['own', 'own', 'other', 'own', 'other', 'other']);
});

test('what no depot gives is said in the words of the last; bytes of another digest are refused', async (t) => {
	const house = await region(t);
	house.answers.own = (_request, response) => void response.writeHead(503).end();
	house.answers.other = (_request, response) =>
		void response.writeHead(404).end('{"error":{"message":"no release placed on your server"}}');
	await assert.rejects(house.client.blob(BLOB), { code: 'fetch', message: /no release placed on your server/ });
	house.answers.other = (_request, response) => void response.end('false');
	await assert.rejects(house.client.blob(BLOB), /do not have that digest/);
});

test("many blobs come in one answer; bytes that were not asked for are nobody's", async (t) => {
	const house = await region(t);
	const texts = ['one', 'two', 'three'];
	const paths: string[] = [];
	house.answers.own = (request, response) => {
		paths.push(`${request.method} ${request.url}`);
		if (request.method === 'GET') return void response.end('three');
		response.end(encodeUpload({}, ['one', 'two', 'four'].map((text) => Buffer.from(text)))); // prettier-ignore
	};
	const blobs = await Promise.all(texts.map((text) => house.client.blob(sha256(text))));
	assert.deepEqual(blobs.map(String), texts);
	assert.deepEqual(paths, ['POST /blobs', `GET /blobs/${sha256('three')}`]);
});

async function region(t: TestContext) {
	const authority = openAuthority(t);
	const dir = mkdtempSync(join(tmpdir(), 'jibe-depots-'));
	const asked: string[] = [];
	const gives: RequestListener = (_request, response) => void response.end('true');
	const answers = { own: gives, other: gives };
	const own = createServer((request, response) => {
		asked.push('own');
		answers.own(request, response);
	});
	const socketPath = join(dir, 'd.sock');
	await new Promise<void>((resolve) => own.listen(socketPath, resolve));
	const stopOwn = () => new Promise((resolve) => own.close(resolve).closeAllConnections());
	const peersOf = (server: string) => new Peers({ directory: authority.server(server).directory, server, log });
	const theirs = peersOf('one');
	theirs.take(listOf(1, authority.peer('two')));
	const server = createPeerHttps(theirs, (request, response) => {
		asked.push('other');
		answers.other(request, response);
	});
	const listener = await listenForPeers(server, { peers: theirs, host: '127.0.0.1', port: 0, log, clock });
	const peers = peersOf('two');
	peers.take(listOf(1, authority.peer('one', { depotPort: listener.port })));
	const client = createDepotClient({ socketPath, others: { peers, regions: ['fra'] }, credential: () => 'credential' });
	t.after(async () => {
		client.close();
		await stopOwn();
		await listener.close();
		rmSync(dir, { recursive: true });
	});
	return { client, answers, asked, stopOwn };
}
