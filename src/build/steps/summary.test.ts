import assert from 'node:assert/strict';
import { test } from 'node:test';
import { summaryLine, testSummary } from './summary.ts';

const line = (output: string) => {
	const summary = testSummary(output);
	return summary && summaryLine(summary);
};

test('node:test, as it prints to people and as TAP', () => {
	const spec = `✔ adds (0.6ms)
✖ subtracts (1.2ms)
▶ division
  ✖ by zero (0.3ms)
✖ division (0.9ms)
ℹ tests 4
ℹ suites 1
ℹ pass 1
ℹ fail 2
ℹ cancelled 0
ℹ skipped 1
ℹ todo 0

✖ failing tests:

test at a.test.js:5:1
✖ subtracts (1.2ms)
  AssertionError [ERR_ASSERTION]: 1 !== 2

test at a.test.js:9:2
✖ by zero (0.3ms)
`;
	assert.equal(line(spec), 'node:test: 2 of 3 failed, 1 skipped: subtracts, by zero');
	assert.equal(
		line('TAP version 13\nok 1 - adds\nnot ok 2 - subtracts\n1..2\n# tests 2\n# suites 0\n# pass 1\n# fail 1\n# skipped 0\n'),
		'node:test: 1 of 2 failed: subtracts',
	);
	assert.equal(line('ℹ tests 3\nℹ pass 3\nℹ fail 0\n'), 'node:test: 3 passed');
});

test('vitest', () => {
	const output = `\u001b[31m FAIL \u001b[39m a.test.ts > subtracts
AssertionError: expected 1 to be 2
 Test Files  1 failed | 2 passed (3)
      Tests  1 failed | 7 passed | 2 skipped (10)
   Start at  12:00:00
`;
	assert.equal(
		line(output.replace('\u001b[31m FAIL \u001b[39m', '\u001b[31m FAIL \u001b[39m')),
		'vitest: 1 of 8 failed, 2 skipped: a.test.ts > subtracts',
	);
	assert.equal(line(' Test Files  3 passed (3)\n      Tests  9 passed (9)\n'), 'vitest: 9 passed');
});

test('jest', () => {
	const output = `FAIL ./a.test.js
  ● division › by zero

    expect(received).toBe(expected)

Test Suites: 1 failed, 1 total
Tests:       1 failed, 1 skipped, 2 passed, 4 total
`;
	assert.equal(line(output), 'jest: 1 of 3 failed, 1 skipped: division › by zero');
});

test('pytest', () => {
	const output = `=========================== short test summary info ============================
FAILED test_a.py::test_subtracts - assert 1 == 2
ERROR test_b.py - ImportError
==================== 1 failed, 3 passed, 1 skipped, 1 error in 0.12s ====================
`;
	assert.equal(line(output), 'pytest: 2 of 5 failed, 1 skipped: test_a.py::test_subtracts, test_b.py');
	assert.equal(line('....\n4 passed in 0.01s\n'), 'pytest: 4 passed');
});

test('cargo test, over several binaries', () => {
	const output = `running 2 tests
test tests::adds ... ok
test tests::subtracts ... FAILED

test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
running 3 tests
test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s
`;
	assert.equal(line(output), 'cargo test: 1 of 4 failed, 1 skipped: tests::subtracts');
});

test('go test, silent and with -v', () => {
	const silent = `--- FAIL: TestSubtract (0.00s)
    --- FAIL: TestSubtract/small (0.00s)
        a_test.go:9: 1 is not 2
FAIL
FAIL\texample.com/a\t0.002s
ok  \texample.com/b\t0.003s
?   \texample.com/c\t[no test files]
FAIL
`;
	assert.equal(line(silent), 'go test: 1 of 2 failed: TestSubtract/small');
	assert.equal(
		line('=== RUN   TestAdd\n--- PASS: TestAdd (0.00s)\n--- PASS: TestB (0.00s)\nPASS\nok  \texample.com/a\t0.002s\n'),
		'go test: 2 passed',
	);
	assert.equal(
		line('# example.com/a\n./a.go:3:1: syntax error\nFAIL\texample.com/a [build failed]\nFAIL\n'),
		'go test: 1 of 1 failed: example.com/a',
	);
});

test('many failures are named as far as a line holds; what is no test run has no summary', () => {
	const many = Array.from({ length: 8 }, (_, i) => `FAILED a.py::test_${i} - x\n`).join('') + '=== 8 failed in 1.20s ===\n';
	assert.equal(line(many), 'pytest: 8 of 8 failed: a.py::test_0, a.py::test_1, a.py::test_2, a.py::test_3, a.py::test_4, and 3 more');
	for (const other of ['', 'hello\n', 'PASS\n', 'Compiled in 3s\nok  done\n']) assert.equal(testSummary(other), null);
});

test('of several runners the one that failed is told', () => {
	assert.equal(line('ℹ tests 1\nℹ pass 1\nℹ fail 0\n=== 1 failed in 0.1s ===\n'), 'pytest: 1 of 1 failed');
});
