import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { test, type TestContext } from 'node:test';
import { sha256 } from '#digest/digest.ts';
import { encodeUpload } from '#wire/upload.ts';
import { createUpstream } from './upstream.ts';

const BLOB = Buffer.from('a module');
const DIGEST = sha256(BLOB);

async function control(t: TestContext, blobs: Buffer[]): Promise<string> {
	const server = createServer((request, response) => {
		request.resume();
		if (request.method === 'POST') return void response.end(encodeUpload({}, blobs));
		const found = blobs.find((blob) => request.url === `/blobs/${sha256(blob)}`);
		response.writeHead(found ? 200 : 404).end(found);
	});
	server.listen(0, '127.0.0.1');
	await once(server, 'listening');
	t.after(() => server.close());
	return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

test('what one control does not have is asked of the next: they may keep their blobs apart', async (t) => {
	const all = [await control(t, []), await control(t, [BLOB])];
	const upstream = createUpstream({ addresses: () => all, credential: () => 'mine' });
	t.after(() => upstream.close());
	assert.deepEqual(await upstream.blob(DIGEST), BLOB);
	assert.deepEqual([...(await upstream.blobs([DIGEST]))], [[DIGEST, BLOB]]);
	await assert.rejects(upstream.blob(sha256('none')), { code: 'blob_missing' });
});
