import assert from 'node:assert/strict';
import { test } from 'node:test';
import { buildFindings, buildIsolation } from './build-isolation.ts';
import { isRoot } from './directory.ts';

test('what can keep builds apart is told, the best first, and what is missing says what to do', () => {
	const { kinds, missing, hint } = buildIsolation();
	assert.deepEqual(kinds, ['crun', 'runc', 'bwrap'].filter((kind) => kinds.some((one) => one === kind))); // prettier-ignore
	assert.equal(hint === null, kinds.length > 0 && missing.length === 0);
	if (!isRoot()) assert.ok(kinds.every((kind) => kind === 'bwrap'));
	const findings = buildFindings();
	assert.ok(findings.length >= 1 && findings.every(({ check }) => check === 'builds'));
	for (const finding of findings) assert.equal(finding.state === 'ok', finding.hint === null);
	assert.equal(findings[0]!.state === 'ok', kinds.length > 0);
});
