import { stripVTControlCharacters } from 'node:util';

/** What the test runners of a few languages say at their end, as numbers and names. */

export interface TestSummary {
	runner: string;
	passed: number;
	failed: number;
	skipped: number;
	/** Names of those that failed, as far as they were said. */
	failures: string[];
}

const MAX_FAILURES = 20;
const SHOWN_FAILURES = 5;

/** null: none of the runners that are known. The last that spoke counts, where several did, unless one before it failed. */
export function testSummary(output: string): TestSummary | null {
	const text = stripVTControlCharacters(output).replaceAll('\r', '');
	const found = [vitest(text), jest(text), nodeTest(text), pytest(text), cargo(text), goTest(text)].filter((one) => one !== null);
	return found.find(({ failed }) => failed > 0) ?? found[0] ?? null;
}

/** `node:test: 1 of 12 failed: adds two numbers` */
export function summaryLine({ runner, passed, failed, skipped, failures }: TestSummary): string {
	const left = skipped > 0 ? `, ${skipped} skipped` : '';
	if (failed === 0) return `${runner}: ${passed} passed${left}`;
	const more = failures.length > SHOWN_FAILURES ? `, and ${failures.length - SHOWN_FAILURES} more` : '';
	const names = failures.length > 0 ? `: ${failures.slice(0, SHOWN_FAILURES).join(', ')}${more}` : '';
	return `${runner}: ${failed} of ${passed + failed} failed${left}${names}`;
}

function numberOf(text: string, pattern: RegExp): number {
	return Number(pattern.exec(text)?.[1] ?? 0);
}

function named(text: string, pattern: RegExp): string[] {
	const names = [...text.matchAll(pattern)].map(([, name]) => name!.trim());
	return [...new Set(names)].filter((name) => name !== '').slice(0, MAX_FAILURES);
}

/** Several commands of one step may each have ended with such lines. */
function total(text: string, pattern: RegExp): number {
	return [...text.matchAll(pattern)].reduce((sum, [, count]) => sum + Number(count), 0);
}

function nodeTest(text: string): TestSummary | null {
	if (!/^(?:ℹ|#) tests \d+$/m.test(text)) return null;
	const failedAt = text.search(/^✖ failing tests:$/m);
	// The list at the end has what the tree above it has, and no suites.
	const listed = failedAt < 0 ? named(text, /^not ok \d+ - (.+?)(?: # .*)?$/gm) : named(text.slice(failedAt), /^✖ (.+?) \([\d.]+m?s\)$/gm);
	return {
		runner: 'node:test',
		passed: total(text, /^(?:ℹ|#) pass (\d+)$/gm),
		failed: total(text, /^(?:ℹ|#) fail (\d+)$/gm) + total(text, /^(?:ℹ|#) cancelled (\d+)$/gm),
		skipped: total(text, /^(?:ℹ|#) skipped (\d+)$/gm),
		failures: listed,
	};
}

function vitest(text: string): TestSummary | null {
	const line = /^\s*Tests {2}(.+)\(\d+\)\s*$/m.exec(text)?.[1];
	if (line === undefined) return null;
	return {
		runner: 'vitest',
		passed: numberOf(line, /(\d+) passed/),
		failed: numberOf(line, /(\d+) failed/),
		skipped: numberOf(line, /(\d+) skipped/) + numberOf(line, /(\d+) todo/),
		failures: named(text, /^ ?FAIL {2}(.+?)$/gm),
	};
}

function jest(text: string): TestSummary | null {
	const line = /^Tests:\s+(.+ total)$/m.exec(text)?.[1];
	if (line === undefined) return null;
	return {
		runner: 'jest',
		passed: numberOf(line, /(\d+) passed/),
		failed: numberOf(line, /(\d+) failed/),
		skipped: numberOf(line, /(\d+) skipped/) + numberOf(line, /(\d+) todo/),
		failures: named(text, /^ {2}● (?!Console)(.+)$/gm),
	};
}

function pytest(text: string): TestSummary | null {
	const line =
		/^=* ?((?:\d+ (?:passed|failed|errors?|skipped|deselected|xfailed|xpassed|warnings?)(?:, )?)+) in [\d.]+s(?: \([\d:]+\))? ?=*$/m.exec(
			text,
		)?.[1];
	if (line === undefined) return null;
	return {
		runner: 'pytest',
		passed: numberOf(line, /(\d+) passed/) + numberOf(line, /(\d+) xpassed/),
		failed: numberOf(line, /(\d+) failed/) + numberOf(line, /(\d+) errors?/),
		skipped: numberOf(line, /(\d+) skipped/) + numberOf(line, /(\d+) xfailed/),
		failures: named(text, /^(?:FAILED|ERROR) (\S+)/gm),
	};
}

function cargo(text: string): TestSummary | null {
	if (!/^test result: /m.test(text)) return null;
	return {
		runner: 'cargo test',
		passed: total(text, /^test result: .*?(\d+) passed/gm),
		failed: total(text, /^test result: .*?(\d+) failed/gm),
		skipped: total(text, /^test result: .*?(\d+) ignored/gm),
		failures: named(text, /^test (.+?) \.\.\. FAILED$/gm),
	};
}

/** Without -v go names packages that passed, and only tests that failed. */
function goTest(text: string): TestSummary | null {
	const packages = [...text.matchAll(/^(ok {2}|FAIL|---)\t\S+/gm)];
	const lone = /^(PASS|FAIL)$/m.test(text) && /^(?:ok {2}|FAIL|exit status)/m.test(text);
	if (packages.length === 0 && !lone) return null;
	const all = named(text, /^\s*--- FAIL: (\S+)/gm);
	// A test fails with those inside it: these tell more.
	const failures = all.filter((name) => !all.some((other) => other.startsWith(`${name}/`)));
	const verbose = [...text.matchAll(/^--- PASS: /gm)].length;
	const failedPackages = named(text, /^FAIL\t(\S+)/gm);
	return {
		runner: 'go test',
		passed: verbose > 0 ? verbose : [...text.matchAll(/^ok {2}\t/gm)].length,
		failed: failures.length > 0 ? failures.length : failedPackages.length,
		skipped: [...text.matchAll(/^--- SKIP: /gm)].length,
		failures: failures.length > 0 ? failures : failedPackages,
	};
}
