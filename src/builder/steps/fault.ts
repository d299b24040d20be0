import { summaryLine, testSummary } from '#build/steps/summary.ts';
import type { StepReport } from '#wire/builds.ts';
import type { PlannedStep } from '#wire/steps.ts';
import { BuildFault } from '../fault.ts';
import type { SandboxReason, SandboxResult } from '../sandbox/sandbox.ts';
import type { Executed } from './execute.ts';

/** How a step ended, in words. */

export interface Failure {
	step: PlannedStep;
	report: StepReport;
	/** The last lines that it printed. */
	tail: string;
}

/** What a report says of a step that ran. */
export function describe(step: PlannedStep, executed: Executed, printed: string): Pick<StepReport, 'state' | 'exitCode' | 'summary'> {
	const { result, made, strippedBytes } = executed;
	const tests = step.kind === 'build' ? null : testSummary(printed);
	const said = tests === null ? null : summaryLine(tests);
	if (result.exitCode !== 0) {
		const how = howItEnded(step, result);
		return { state: 'failed', exitCode: result.exitCode, summary: said === null ? how : `${said} (${how})` };
	}
	return { state: 'passed', exitCode: 0, summary: said ?? (made.files.length === 0 ? null : describeMade(made, strippedBytes)) };
}

function describeMade({ files, bytes, packed }: Executed['made'], strippedBytes: number): string {
	const what = files.length === 1 ? files[0]!.path : `${files.length} files`;
	const sent = packed === null ? '' : `, ${size(packed.length)} as sent`;
	return `${what}, ${size(bytes)}${sent}${strippedBytes > 0 ? `; ${size(strippedBytes)} stripped` : ''}`;
}

const LIMITS: Record<SandboxReason, (step: PlannedStep) => string> = {
	timeout: ({ timeoutMs }) => `it took longer than its timeout of ${timeoutMs / 1000} s`,
	memory: () => 'it needed more memory than a step may have',
	pids: () => 'it started more processes than a step may have',
	disk: () => 'it wrote more than a step may have on disk',
	output: () => 'it printed more than a step may print',
};

function howItEnded(step: PlannedStep, { exitCode, signal, reason }: SandboxResult): string {
	if (reason !== null) return LIMITS[reason](step);
	return exitCode === null ? `ended by ${signal}` : `exit code ${exitCode}`;
}

const MAX_SHOWN = 3;

/** One error for all that failed; what was only skipped because of them is left out. */
export function faultOf(failures: readonly Failure[]): BuildFault {
	const failed = failures.filter(({ report }) => report.state === 'failed');
	const told = (failed.length > 0 ? failed : failures).slice(0, MAX_SHOWN);
	const texts = told.map(({ step, report, tail }) => `The step ${step.name} failed: ${report.summary}${tail === '' ? '' : `\n${tail}`}`);
	if (failed.length > told.length) texts.push(`and ${failed.length - told.length} more`);
	const tests = told[0]!.step.kind !== 'build';
	return new BuildFault(tests ? 'tests' : 'build_step', texts.join('\n\n'), null, tests ? { state: 'TestFailed' } : {});
}

function size(bytes: number): string {
	return bytes < 1024 * 1024 ? `${Math.ceil(bytes / 1024)} KiB` : `${(bytes / 1024 / 1024).toFixed(1)} MiB`;
}
