import { spawnSync } from 'node:child_process';
import { chmodSync, globSync, mkdtempSync, readFileSync, rmSync, statfsSync } from 'node:fs';
import { join, relative } from 'node:path';
import { run } from 'node:test';
import { spec } from 'node:test/reporters';
import { buildWhenStale } from './built.ts';

/**
 * `npm test [-- PATTERN…]`: every test of the house, or those whose path holds a pattern. Stories run first because
 * they take longest, the longest of them before the others. With CI set, a test that was skipped for a reason not listed here fails the run.
 */

/** Two cores are what we promise to be quick on. Stories wait as long as they compute: for a region to be lost, for a limit to pass. */
const CONCURRENCY = 5;
/** No single file may take longer than this: a hanging test ends with its name instead of with the CI job. */
const FILE_TIMEOUT_MS = 300_000;
const SLOWEST_SHOWN = 12;
/** Begun before the others, so that none of them is left alone at the end. */
const LONG = /\/(fleet-\w+|upgrade|store|backup|bad-apps|empty-root|rollbacks)\.test\.ts$/;
/** The beginnings of reasons for which a test may be skipped in CI: what that machine need not have. */
const EXPECTED_SKIPS = [
	'needs HAProxy',
	'needs nginx',
	'needs macOS',
	'needs a user other than root',
	'needs a terminal',
	'needs the npm registry',
	'needs JIBE_TEST_INSTALLS=all',
	'needs Chromium',
	'needs the history of git',
	"needs Debian's PostgreSQL",
];
/** What can only be shown by root, and not in every container. */
const EXPECTED_SKIPS_UNISOLATED = [
	'needs root',
	'needs network namespaces',
	'needs cgroups',
	'not enforced here',
	'needs the right to mount',
	'mounting a small disk',
	'needs a sandbox of builds',
	'needs user namespaces for everybody',
];

/** Types are stripped from a file once, and not by every test file that imports it. */
process.env['NODE_COMPILE_CACHE'] ??= join(import.meta.dirname, '..', 'node_modules', '.cache', 'jibe-tests');
/** Temporary files in memory: on ext4, which looks long for an inode that was not just deleted, tests of databases take three times the CPU. */
const MEMORY = '/dev/shm';
const LEAST_MEMORY_BYTES = 4 * 2 ** 30;
if (process.env['TMPDIR'] === undefined && mayHold(MEMORY)) keepTemporaryFilesIn(MEMORY);
buildWhenStale();
runTests(process.argv.slice(2));

function runTests(patterns: readonly string[]): void {
	const stories = globSync('test/**/*.test.ts').sort().sort((a, b) => Number(isLong(b)) - Number(isLong(a))); // prettier-ignore
	const files = [...stories, ...globSync('src/**/*.test.ts').sort()].filter(
		(file) => patterns.length === 0 || patterns.some((pattern) => file.includes(pattern)),
	);
	if (files.length === 0) {
		console.error(`No test file matches ${patterns.join(' ')}.`);
		process.exit(2);
	}
	const unexpected: string[] = [];
	const expected = [...EXPECTED_SKIPS, ...(mayIsolate() ? [] : EXPECTED_SKIPS_UNISOLATED)];
	const spent: { file: string; ms: number }[] = [];
	const tests = run({ files, concurrency: CONCURRENCY, timeout: FILE_TIMEOUT_MS });
	tests.on('test:fail', ({ todo }) => {
		if (todo === undefined || todo === false) process.exitCode = 1;
	});
	tests.on('test:pass', ({ name, skip, file }) => {
		if (skip === undefined || skip === false) return;
		const reason = skip === true ? '' : skip;
		if (!expected.some((beginning) => reason.startsWith(beginning))) unexpected.push(`${file}: ${name} (${reason || 'no reason'})`);
	});
	tests.on('test:summary', ({ file, duration_ms: ms }) => {
		if (file !== undefined) spent.push({ file, ms });
	});
	process.on('exit', () => {
		printSlowest(spent);
		if (!process.env['CI'] || unexpected.length === 0) return;
		console.error(`Skipped without a reason that CI expects:\n  ${unexpected.join('\n  ')}`);
		process.exitCode = 1;
	});
	tests.compose(spec).pipe(process.stdout);
}

function isLong(file: string): boolean {
	return LONG.test(file);
}

/** Has room, and what lies there may be executed. */
function mayHold(place: string): boolean {
	if (process.platform !== 'linux') return false;
	const mount = readFileSync('/proc/mounts', 'utf8').split('\n').findLast((line) => line.split(' ')[1] === place); // prettier-ignore
	if (mount === undefined || mount.split(' ')[3]!.split(',').includes('noexec')) return false;
	const { bavail, bsize } = statfsSync(place);
	return bavail * bsize >= LEAST_MEMORY_BYTES;
}

/** As long as the tests run; open to other users, as /tmp is. */
function keepTemporaryFilesIn(place: string): void {
	const directory = mkdtempSync(join(place, 'jibe-'));
	chmodSync(directory, 0o1777);
	process.env['TMPDIR'] = directory;
	process.once('SIGINT', () => process.exit(1)).once('SIGTERM', () => process.exit(1));
	process.on('exit', () => rmSync(directory, { recursive: true, force: true, maxRetries: 5 }));
}

function mayIsolate(): boolean {
	return process.getuid?.() === 0 && spawnSync('unshare', ['--mount', 'true'], { stdio: 'ignore' }).status === 0;
}

/** Where the time goes: what is worth making quicker when the whole takes too long. */
function printSlowest(spent: { file: string; ms: number }[]): void {
	const slowest = spent.sort((a, b) => b.ms - a.ms).slice(0, SLOWEST_SHOWN);
	const lines = slowest.map(({ file, ms }) => `${(ms / 1000).toFixed(1).padStart(6)} s  ${relative('.', file)}`);
	console.log(`Slowest files:\n${lines.join('\n')}`);
}
