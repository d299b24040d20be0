import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { delimiter, dirname, join } from 'node:path';
import type { BuildResult } from '#build/result.ts';
import { systemClock } from '#clock/clock.ts';
import { sha256 } from '#digest/digest.ts';
import { unsentFields } from './conclude.ts';
import type { Stages } from './deploy.ts';
import { EXIT, Failure } from './failure.ts';
import { done, seconds } from './output.ts';
import type { Project } from './project.ts';
import type { Invocation } from './verbs.ts';

const TYPES_COMMAND = 'tsc --noEmit';
const KEPT_OUTPUT_CHARS = 16 * 1024;
const SHOWN_LINES = 30;
const LIMIT_MS = 30 * 60_000;

/** Runs the app's tests and type check, unless they passed before on this very artifact. @throws Failure (TestFailed); nothing was sent */
export async function gate({ out, environment }: Invocation, project: Project, built: BuildResult, stages: Stages): Promise<void> {
	const { directory, cache, config } = project;
	const commands = [...(config.types ? [TYPES_COMMAND] : []), ...(config.test === undefined ? [] : [config.test])];
	const markOf = (command: string) =>
		join(cache, 'passed', sha256(`${built.artifact}\0${built.vendor?.root ?? ''}\0${command}`).slice(7, 39));
	const pending = commands.filter((command) => !existsSync(markOf(command)));
	if (pending.length === 0) return;
	stages.enter('Testing');
	for (const command of pending) {
		out.now(`Testing: ${command}…`);
		const startedAt = systemClock.monotonic();
		const { code, output } = await run(command, directory);
		if (code !== 0) {
			const tail = output.trimEnd().split('\n').slice(-SHOWN_LINES).join('\n');
			throw new Failure('tests', EXIT.app, `The tests failed: ${command} ended with ${code}\n${tail}`, {
				hint: 'nothing was sent: what serves goes on serving',
				fields: unsentFields({ app: config.app, environment }, { state: 'TestFailed', reason: 'tests', ...built }),
			});
		}
		mkdirSync(join(cache, 'passed'), { recursive: true, mode: 0o700 });
		writeFileSync(markOf(command), '');
		out.say(done(`Tested in ${seconds(systemClock.monotonic() - startedAt)}`, command));
	}
}

function run(command: string, directory: string): Promise<{ code: number | string; output: string }> {
	const path = [join(directory, 'node_modules', '.bin'), dirname(process.execPath), process.env['PATH'] ?? ''].join(delimiter);
	return new Promise((resolve, reject) => {
		const child = spawn('sh', ['-c', command], {
			cwd: directory,
			env: { ...process.env, PATH: path },
			stdio: ['ignore', 'pipe', 'pipe'],
			timeout: LIMIT_MS,
		});
		let output = '';
		const keep = (chunk: Buffer) => (output = (output + chunk.toString()).slice(-KEPT_OUTPUT_CHARS));
		child.stdout.on('data', keep);
		child.stderr.on('data', keep);
		child.once('error', reject);
		child.once('close', (code, signal) => resolve({ code: code ?? signal ?? 'nothing', output }));
	});
}
