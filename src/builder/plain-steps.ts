import { join } from 'node:path';
import { systemClock } from '#clock/clock.ts';
import type { StepReport } from '#wire/builds.ts';
import { BuildFault } from './fault.ts';
import type { OpenSteps, Ran } from './ground.ts';

/** Steps one after the other, nothing kept. */
export const openPlainSteps: OpenSteps = async (ground) => {
	const { attempt } = ground;
	return {
		async run(steps): Promise<Ran> {
			const reports: StepReport[] = [];
			for (const step of steps) {
				const startedAt = systemClock.now();
				const sandbox = await (
					await ground.sandboxes()
				).create({ source: ground.checkout, layers: ground.layers, readOnly: ground.mounts });
				const print = attempt.printer(step.name);
				const kill = () => sandbox.kill();
				attempt.stopped.addEventListener('abort', kill);
				try {
					const cwd = join(sandbox.paths.source, ground.directory);
					const env = { ...ground.env, ...step.env };
					const result = await sandbox.run({ command: step.run, cwd, env, timeoutMs: step.timeoutMs, onOutput: print.write });
					print.end();
					const report = {
						name: step.name,
						kind: step.kind,
						cached: false,
						startedAt,
						endedAt: systemClock.now(),
						exitCode: result.exitCode,
						key: null,
						summary: null,
					};
					reports.push({ ...report, state: result.exitCode === 0 ? 'passed' : 'failed' });
					attempt.step(reports.at(-1)!);
					attempt.check();
					if (result.exitCode !== 0)
						throw new BuildFault(
							'step',
							`${step.name} ended with ${result.reason ?? result.exitCode}`,
							null,
							step.kind === 'test' ? { state: 'TestFailed' } : {},
						);
				} finally {
					attempt.stopped.removeEventListener('abort', kill);
					await sandbox.destroy();
				}
			}
			return { outputs: [], reports, savedBytes: 0, savedMs: 0 };
		},
		async close() {},
	};
};
