import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { whyNot } from './testbed.ts';

const SCRIPT = `import { openSandboxes } from ${JSON.stringify(join(import.meta.dirname, 'open.ts'))};
import { createLog } from ${JSON.stringify(join(import.meta.dirname, '../../log/log.ts'))};
const [directory, allow] = process.argv.slice(1);
try {
	const { kind, missing, close } = await openSandboxes({ directory, allowUnsandboxed: allow === 'allow', log: createLog({}) });
	console.log(JSON.stringify({ kind, missing }));
} catch ({ code, message }) {
	console.log(JSON.stringify({ code, message }));
}`;
const HIDDEN = ['crun', 'runc', 'bwrap'].flatMap((name) => [`/usr/bin/${name}`, `/usr/sbin/${name}`, `/usr/local/bin/${name}`]);

test('where nothing keeps builds apart none are run, unless a person allows it', { skip: whyNot('crun') }, (t) => {
	const directory = mkdtempSync(join(tmpdir(), 'jibe-open-'));
	t.after(() => rmSync(directory, { recursive: true, force: true }));
	const hide = HIDDEN.filter((path) => existsSync(path)).map((path) => `mount --bind /dev/null ${path}`);
	const open = (...allow: string[]) => {
		const node = [process.execPath, '--input-type=module', '-e', SCRIPT, directory, ...allow];
		const { stdout, stderr } = spawnSync('unshare', ['--mount', 'sh', '-c', `${hide.join(' && ')} && exec "$@"`, 'sh', ...node], {
			encoding: 'utf8',
		});
		assert.equal(stderr, '');
		return JSON.parse(stdout) as { code?: string; message?: string; kind?: string; missing?: string[] };
	};
	const refused = open();
	assert.equal(refused.code, 'no_sandbox');
	assert.match(refused.message ?? '', /none are run here: install crun \(or runc, or bubblewrap\)\n.*--allow-unsandboxed/);
	const allowed = open('allow');
	assert.equal(allowed.kind, 'none');
	assert.match(allowed.missing?.join() ?? '', /run as the builder itself/);
});
