import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { test, type TestContext } from 'node:test';
import fc from 'fast-check';
import { globs, IgnoreRules } from './ignore.ts';

const PATHS = [
	'a', 'b.log', 'a.txt', 'dist/a', 'dist/b.log', 'src/dist/a', 'src/a/b', 'src/b.log', 'src/deep/er/a.txt', 'x y/a', 'src/[a]', 'lib/a1', 'lib/a2', '.hidden', '#a', '!a', 'src/a/c.log', 'lib/x/a1',
]; // prettier-ignore
const PATTERNS = [
	'a', '/a', 'a/', '*.log', '!b.log', 'dist', 'dist/', '/dist', 'src/dist', '**/a', 'src/**', 'src/**/a.txt', '**/dist/*', '*', '!src', '!src/', 'x y', 'lib/a[12]', 'lib/a[!1]', 'lib/a?', '\\#a', '\\!a', '# comment', '', '.*', 'src/\\[a\\]', 'a ', 'deep/er', '/src/*/er', 'src/*.log', 'lib/*1', 'l*/a?',
]; // prettier-ignore

/** What git says of `PATHS` under these rules. */
function gitIgnores(dir: string, rules: string): Set<string> {
	writeFileSync(join(dir, '.gitignore'), rules);
	const { stdout } = spawnSync('git', ['check-ignore', '--no-index', '--stdin', '-z'], {
		cwd: dir,
		input: PATHS.join('\0'),
		encoding: 'utf8',
	});
	return new Set(stdout.split('\0').filter((path) => path !== ''));
}

function weIgnore(path: string, rules: IgnoreRules): boolean {
	const names = path.split('/');
	// Nothing below an ignored folder is looked at.
	return names.some((_, i) => rules.ignores(names.slice(0, i + 1).join('/'), i < names.length - 1));
}

test('.gitignore is read as git reads it', (t: TestContext) => {
	const dir = mkdtempSync(join(tmpdir(), 'jibe-ignore-'));
	try {
		if (spawnSync('git', ['init', '-q'], { cwd: dir }).status !== 0) return t.skip('git is not installed');
		for (const path of PATHS) {
			mkdirSync(join(dir, dirname(path)), { recursive: true });
			writeFileSync(join(dir, path), '');
		}
		fc.assert(
			fc.property(fc.array(fc.constantFrom(...PATTERNS), { minLength: 1, maxLength: 4 }), (lines) => {
				const text = lines.join('\n');
				const rules = new IgnoreRules().with(text, '');
				const theirs = gitIgnores(dir, text);
				for (const path of PATHS) assert.equal(weIgnore(path, rules), theirs.has(path), `${path} under ${JSON.stringify(lines)}`);
			}),
			{ numRuns: 60 },
		);
	} finally {
		rmSync(dir, { recursive: true, force: true });
	}
});

test('a list of globs covers what lies below a folder it names', () => {
	const rules = globs(['./dist', 'assets/**/*.png', '*.sql']);
	for (const path of ['dist/a/b', 'assets/x/y.png', 'assets/y.png', 'db/1.sql']) assert.equal(rules.covers(path), true, path);
	for (const path of ['src/dist/a', 'assets/y.jpg', 'a.sqlx']) assert.equal(rules.covers(path), false, path);
});

test('rules of a folder hold below it only', () => {
	const rules = new IgnoreRules().with('/a\nb\n', 'sub/');
	assert.deepEqual(['sub/a', 'sub/x/a', 'sub/x/b', 'b', 'a'].map((path) => rules.ignores(path, false)), [true, false, true, false, false]); // prettier-ignore
});
