import { spawnSync } from 'node:child_process';
import { globSync, statSync } from 'node:fs';
import { run } from 'node:test';
import { spec } from 'node:test/reporters';

/**
 * `npm test [-- PATTERN…]`: every test of the house, or those whose path holds a pattern. Stories run first because
 * they take longest. With CI set, a test that was skipped for a reason not listed here fails the run.
 */

/** Two cores are what we promise to be quick on; more files at once only make the stories wait for each other. */
const CONCURRENCY = 2;
/** No single file may take longer than this: a hanging test ends with its name instead of with the CI job. */
const FILE_TIMEOUT_MS = 180_000;
/** The beginnings of reasons for which a test may be skipped in CI: what that machine need not have. */
const EXPECTED_SKIPS = ['needs HAProxy', 'needs nginx', 'needs macOS', 'needs a user other than root', 'needs a terminal'];

const SOURCES = ['src/**/*.ts', 'scripts/bundle.ts', 'dashboard/**/*', 'package.json', 'bin/jibe'];

buildWhenStale();
runTests(process.argv.slice(2));

function runTests(patterns: readonly string[]): void {
	const files = [...globSync('test/**/*.test.ts').sort(), ...globSync('src/**/*.test.ts').sort()].filter(
		(file) => patterns.length === 0 || patterns.some((pattern) => file.includes(pattern)),
	);
	if (files.length === 0) {
		console.error(`No test file matches ${patterns.join(' ')}.`);
		process.exit(2);
	}
	const unexpected: string[] = [];
	const tests = run({ files, concurrency: CONCURRENCY, timeout: FILE_TIMEOUT_MS });
	tests.on('test:fail', ({ todo }) => {
		if (todo === undefined || todo === false) process.exitCode = 1;
	});
	tests.on('test:pass', ({ name, skip, file }) => {
		if (skip === undefined || skip === false) return;
		const reason = skip === true ? '' : skip;
		if (!EXPECTED_SKIPS.some((expected) => reason.startsWith(expected))) unexpected.push(`${file}: ${name} (${reason || 'no reason'})`);
	});
	process.on('exit', () => {
		if (!process.env['CI'] || unexpected.length === 0) return;
		console.error(`Skipped without a reason that CI expects:\n  ${unexpected.join('\n  ')}`);
		process.exitCode = 1;
	});
	tests.compose(spec).pipe(process.stdout);
}

/** Stories start `bin/jibe`, which runs the bundles in `dist/`. */
function buildWhenStale(): void {
	const built = newest(['dist/**/*']);
	if (built > 0 && built >= newest(SOURCES)) return;
	const { status } = spawnSync(process.execPath, ['scripts/bundle.ts'], { stdio: 'inherit' });
	if (status !== 0) {
		console.error('The bundles in dist/ could not be built (node scripts/bundle.ts).');
		process.exit(1);
	}
}

function newest(patterns: string[]): number {
	const files = globSync(patterns).filter((file) => !file.endsWith('.test.ts'));
	return Math.max(0, ...files.map((file) => statSync(file).mtimeMs));
}
