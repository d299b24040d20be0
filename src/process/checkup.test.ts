import assert from 'node:assert/strict';
import { tmpdir } from 'node:os';
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { test } from 'node:test';
import { machineFindings, type Finding } from './checkup.ts';

test('a machine is looked at as a whole, and whatever is not well says what to do', () => {
	const findings = machineFindings(tmpdir());
	for (const check of ['machine', 'disk', 'isolation'])
		assert.ok(
			findings.some((one) => one.check === check),
			check,
		);
	for (const { state, hint, detail } of findings) assert.equal(state === 'ok', hint === null, detail);
});

test('few open files are seen', { skip: process.platform !== 'linux' && 'needs Linux' }, () => {
	const script = `import { machineFindings } from ${JSON.stringify(join(import.meta.dirname, 'checkup.ts'))}; console.log(JSON.stringify(machineFindings('/')))`;
	const { stdout } = spawnSync('bash', ['-c', 'ulimit -n 256; exec "$0" --input-type=module -e "$1"', process.execPath, script], {
		encoding: 'utf8',
	});
	const found = (JSON.parse(stdout) as Finding[]).filter(({ check }) => check === 'limits');
	assert.deepEqual(found.map(({ state, detail }) => [state, detail]), [['warn', '256 open files a program']]); // prettier-ignore
	assert.match(found[0]!.hint ?? '', /ulimit -n/);
});
