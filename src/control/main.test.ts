import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { runDirectory } from '#process/directory.ts';
import { stopPostgres } from '#state/embedded.ts';

test('the program makes its database and its admin token, and a second start finds both', async (t) => {
	const data = mkdtempSync(join(tmpdir(), 'jibe-control-main-'));
	const runDir = runDirectory(data);
	t.after(async () => {
		await stopPostgres(data);
		rmSync(data, { recursive: true });
		rmSync(runDir, { recursive: true, force: true });
	});
	const port = await freePort();
	const start = async () => {
		const settings = { data, port, regions: [{ name: 'fra', edgePort: 8080 }] };
		const program = spawn(process.execPath, [join(import.meta.dirname, '../../scripts/program.ts'), 'control', data], {
			env: { ...process.env, JIBE_PROGRAM: JSON.stringify(settings) },
			stdio: ['ignore', 'pipe', 'ignore'],
		});
		t.after(() => program.kill('SIGKILL'));
		const [said] = (await once(program.stdout, 'data')) as [Buffer];
		assert.equal(said.toString(), 'ready\n');
		return async () => {
			program.kill('SIGTERM');
			assert.deepEqual(await once(program, 'exit'), [0, null]);
		};
	};
	const whoami = async (token: string) =>
		(await fetch(`http://127.0.0.1:${port}/api/v1/whoami`, { headers: { authorization: `Bearer ${token}` } })).status;

	const stop = await start();
	const file = join(data, 'admin.token');
	const token = readFileSync(file, 'utf8').trim();
	assert.equal(statSync(file).mode & 0o777, 0o600);
	assert.equal(await whoami(token), 200);
	assert.ok(existsSync(join(data, 'pids/control.json')));
	await stop();
	assert.ok(!existsSync(join(data, 'pids/control.json')));

	const stopAgain = await start();
	assert.equal(readFileSync(file, 'utf8').trim(), token);
	assert.equal(await whoami(token), 200);
	await stopAgain();
});

async function freePort(): Promise<number> {
	const server = createServer().listen(0, '127.0.0.1');
	await once(server, 'listening');
	const { port } = server.address() as AddressInfo;
	server.close();
	await once(server, 'close');
	return port;
}
