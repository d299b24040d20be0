import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { BackupWriter, fileKey, proofOf } from '#wire/backup-file.ts';
import { restoreSettings, type RestoreTold } from './restore-program.ts';

const root = mkdtempSync(join(tmpdir(), 'jibe-restore-'));
after(() => rmSync(root, { recursive: true, force: true }));

const KEY = Buffer.alloc(32, 3);
const SALT = Buffer.alloc(32, 4).toString('base64');
const HEADER = {
	format: 1,
	version: '0.1.0',
	createdAt: 0,
	installation: 'x',
	all: true,
	keys: true,
	seal: {
		kdf: { name: 'scrypt', cost: 2, blockSize: 1, parallelization: 1, salt: '' },
		fileSalt: SALT,
		proof: proofOf(fileKey(KEY, SALT)),
	},
	migrations: [],
	up: { regions: [], port: 1, edgePort: 1 },
};

/** The program as `jibe restore` starts it: settings in the environment, the key on its standard input. */
async function run(file: string, key: Buffer | null): Promise<{ told: RestoreTold[]; code: number | null; data: string }> {
	const data = join(root, 'data');
	const settings = restoreSettings.parse({ data, restore: { file } });
	const script = join(import.meta.dirname, '../../scripts/program.ts');
	const env = { ...process.env, JIBE_PROGRAM: JSON.stringify(settings) };
	const child = spawn(process.execPath, [script, 'control', data], { env, stdio: ['pipe', 'pipe', 'ignore'] });
	child.stdin.end(`${key?.toString('base64') ?? ''}\n`);
	let text = '';
	child.stdout.on('data', (chunk: Buffer) => (text += chunk.toString()));
	const code = await new Promise<number | null>((resolve) => child.once('close', resolve));
	return { told: text.trim().split('\n').map((line) => JSON.parse(line) as RestoreTold), code, data }; // prettier-ignore
}

test('a file that can not be restored: told, and nothing is begun', async () => {
	const file = join(root, 'file');
	const header = new BackupWriter().begin(HEADER, fileKey(KEY, SALT));
	for (const [bytes, key, code] of [
		[Buffer.from('nothing of the kind'), KEY, 'backup_unreadable'],
		[Buffer.concat(header), null, 'backup_sealed'],
		[Buffer.concat(header), Buffer.alloc(32), 'backup_passphrase'],
	] as const) {
		writeFileSync(file, bytes);
		const result = await run(file, key);
		const [last] = result.told.slice(-1);
		assert.equal(last && 'failed' in last && last.failed.code, code);
		assert.equal(result.code, 1);
		assert.ok(!existsSync(join(result.data, 'postgres')));
	}
});
