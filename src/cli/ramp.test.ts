import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Output } from './output.ts';
import { RampLine } from './ramp.ts';

const progress = { weightBp: 500, regions: ['fra'], leftMs: 75_000, requests: 12, errors: 1 };

function told(live: boolean): { line: RampLine; said: string[] } {
	const said: string[] = [];
	const out = new Output(false, { out: assert.fail, err: (text) => void said.push(text), live });
	return { line: new RampLine(out), said };
}

test('each weight is said once; a terminal sees how it goes', (t) => {
	const { line, said } = told(true);
	t.after(() => line.end());
	line.hear(progress);
	line.hear({ ...progress, leftMs: 30_000, requests: 40 });
	line.hear({ ...progress, weightBp: 2500, leftMs: 9_400 });
	assert.deepEqual(
		said.filter((text) => text !== '\r\u001b[K'),
		[
			'  5 % of the traffic in fra for 1.3 min\n',
			'  1.2 min left: 12 requests, 1 error',
			'  30.0s left: 40 requests, 1 error',
			'  25 % of the traffic in fra for 9.4s\n',
			'  9.4s left: 12 requests, 1 error',
		],
	);
});

test('a pipe gets a line for each weight and nothing between', (t) => {
	const { line, said } = told(false);
	t.after(() => line.end());
	line.hear(progress);
	line.hear({ ...progress, leftMs: 30_000 });
	line.hear({ ...progress, regions: ['ams', 'lhr', 'cdg', 'mad'], leftMs: 75_000 });
	assert.deepEqual(said, ['  5 % of the traffic in fra for 1.3 min\n', '  5 % of the traffic in 4 regions for 1.3 min\n']);
});
