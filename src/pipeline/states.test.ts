import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import fc from 'fast-check';
import { EDGES, EDGE_LIST, exitCode, FIRST_STATES, isFinal, mayHaveMoved, SKIPS, STATES, transition, type State } from './states.ts';

const page = readFileSync(new URL('../../docs/states.md', import.meta.url), 'utf8');
const key = ([from, to]: readonly [string, string]) => `${from} → ${to}`;
const EXITS: readonly State[] = ['Cancelled', 'Superseded', 'TimedOut'];

test('the page draws exactly the edges of the table', () => {
	const drawn = [...page.matchAll(/^ {4}(\w+) --> (\w+)/gm)].map((match) => [match[1]!, match[2]!] as const);
	const skips = [...page.matchAll(/^\| (\w+) \| ([A-Z]\w+(?:, \w+)*) \|/gm)]
		.filter((match) => STATES.includes(match[1] as State))
		.flatMap((match) => match[2]!.split(', ').map((to) => [match[1]!, to] as const));
	const exitLine = /^From (.+) and (\w+):$/m.exec(page);
	const exits = [...exitLine![1]!.split(', '), exitLine![2]!].flatMap((from) => EXITS.map((to) => [from, to] as const));
	assert.deepEqual(skips.map(key).toSorted(), SKIPS.map(key).toSorted());
	assert.deepEqual([...drawn, ...skips, ...exits].map(key).toSorted(), EDGE_LIST.map(key).toSorted());
});

test('the page names the final states with their exit codes', () => {
	const rows = [...page.matchAll(/^\| (\w+) \| .* \| ([\d or]+) \|$/gm)].map((match) => [match[1], match[2]]);
	assert.deepEqual(rows.map(([state]) => String(state)).toSorted(), STATES.filter(isFinal).toSorted());
	for (const [state, codes] of rows) {
		const possible = new Set([exitCode(state as State, null), exitCode(state as State, 'platform')]);
		assert.deepEqual([...possible].join(' or '), codes, state);
	}
});

test('a deploy and a rollback walk the table to Deployed', () => {
	const deploy: State[] = ['Queued', 'Building', 'Uploading', 'ReadyToDeploy', 'Deploying', 'CanaryCheck', 'RollingOut', 'Deployed'];
	const rollback: State[] = ['Deploying', 'RollingOut', 'Deployed'];
	for (const path of [deploy, rollback]) {
		assert.ok(FIRST_STATES.includes(path[0]!));
		assert.equal(path.reduce(transition), 'Deployed');
	}
});

test('an edge that is not in the table is refused by name', () => {
	assert.throws(() => transition('Deploying', 'Deployed'), {
		code: 'illegal_transition',
		message: "a deployment can't go from Deploying to Deployed",
	});
	assert.throws(() => transition('Deployed', 'RollingBack'), { code: 'illegal_transition' });
	assert.throws(() => transition('RollingBack', 'Deployed'), { code: 'illegal_transition' });
});

test('property: any walk through the table ends, and once a pointer may have moved it ends in Deployed or RolledBack', () => {
	fc.assert(
		fc.property(fc.constantFrom(...FIRST_STATES), fc.array(fc.nat(), { minLength: 20, maxLength: 20 }), (first, choices) => {
			let state = first;
			let moved = false;
			for (const choice of choices) {
				moved ||= mayHaveMoved(state);
				const ways = EDGES[state];
				if (ways.length > 0) state = transition(state, ways[choice % ways.length]!);
			}
			assert.ok(isFinal(state));
			assert.notEqual(exitCode(state, null), null);
			if (moved) assert.ok(state === 'Deployed' || state === 'RolledBack', state);
		}),
	);
});
