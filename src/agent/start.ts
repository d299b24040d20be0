import type { Clock } from '#clock/clock.ts';
import { nextStep, record, startCheck, type Check } from '#health/check.ts';
import type { Instance, ReleaseSpec } from '#wire/region.ts';
import { askHealth } from './ask-health.ts';
import { START_LIMIT_MS, StartTimeout, type InstanceProcess } from './instance-process.ts';
import type { ReleaseFiles } from './release-files.ts';

/** From a release to an instance that answers: fetch → room → take → load → check. Whoever called reports. */
export async function start(order: StartOrder, parts: StartParts): Promise<Started> {
	const { clock } = parts;
	const began = clock.monotonic();
	const files = await parts.fetch(order.spec);
	const fetched = clock.monotonic();
	let giveBack = () => {};
	try {
		giveBack = await parts.reserve(order.spec);
		const taken = await parts.take(order, files);
		await load(taken.process, parts.environment(order), files);
		const started = clock.monotonic();
		const check = await checkStart(taken.process, order.spec, clock);
		const timings = { fetchMs: fetched - began, startMs: started - fetched, checkMs: clock.monotonic() - started };
		return { ...taken, files, check, timings };
	} catch (error) {
		files.release();
		throw error;
	} finally {
		giveBack();
	}
}

export interface StartOrder {
	region: string;
	spec: ReleaseSpec;
}

export interface StartParts {
	clock: Clock;
	/** The release's files, on this server. */
	fetch(spec: ReleaseSpec): Promise<ReleaseFiles>;
	/** Room for one more. @throws NoRoom */
	reserve(spec: ReleaseSpec): Promise<() => void>;
	/** A process bound to this release and region from now on. */
	take(order: StartOrder, files: ReleaseFiles): Promise<{ process: InstanceProcess; cold: boolean }>;
	environment(order: StartOrder): Record<string, string>;
}

export interface Started {
	process: InstanceProcess;
	cold: boolean;
	files: ReleaseFiles;
	check: Check;
	timings: NonNullable<Instance['timings']>;
}

export class StartFailed extends Error {
	readonly code: string;
	constructor(code: string, message: string) {
		super(message);
		this.code = code;
	}
}

export function refuseUnsupported({ runtime: { kind } }: ReleaseSpec): void {
	if (kind === 'fetch') return;
	throw new StartFailed('runtime_unsupported', `this version of Jibe runs "fetch" apps; "runtime": "${kind}" is not there yet`);
}

async function load(process: InstanceProcess, env: Record<string, string>, files: ReleaseFiles): Promise<void> {
	process.tell({ type: 'load', root: files.root, pack: files.pack, maps: files.maps, env });
	const report = await process.hear(['loaded', 'failed'], START_LIMIT_MS).catch((error: unknown) => {
		void process.stop(0);
		if (!(error instanceof StartTimeout)) throw error;
		throw new StartFailed('start', `its modules were not loaded within ${START_LIMIT_MS / 1000} s: something at the top level never ends`);
	});
	if (report.type === 'loaded') return;
	void process.stop(0);
	throw new StartFailed(report.reason, report.detail);
}

async function checkStart(process: InstanceProcess, spec: ReleaseSpec, clock: Clock): Promise<Check> {
	let check = startCheck(spec.health, clock.monotonic());
	while (!check.healthy) {
		const step = nextStep(check);
		if (step.do === 'giveUp' || process.over) {
			if (process.over) throw await endedWhileChecked(process);
			void process.stop(0);
			throw new StartFailed('unhealthy', `it started, but ${check.problem ?? 'it never answered'}`);
		}
		await until(step.at, clock);
		check = record(check, await askHealth(process.address, step.path, step.timeoutMs, clock), clock.monotonic());
	}
	return check;
}

async function endedWhileChecked(process: InstanceProcess): Promise<StartFailed> {
	const ending = await process.ended;
	return new StartFailed(ending.reason, ending.detail);
}

function until(at: number, clock: Clock): Promise<void> | undefined {
	const delay = at - clock.monotonic();
	return delay > 0 ? new Promise((resolve) => clock.after(delay, resolve)) : undefined;
}
