import { pause, systemClock } from '#clock/clock.ts';
import { greeting } from './frozen.ts';
import type { Ground } from './ground.ts';
import type { Program } from './programs.ts';

/** Whether edges hold their ports: two share them, so that one can be replaced while the other one serves. */

const ANSWER_WITHIN_MS = 1_000;
const LOOK_MS = 20;
/** One that is about to end lets requests end that are in flight, and is started again; one that never serves is no reason to wait on. */
const SERVES_WITHIN_MS = 45_000;

/** It holds its ports, and neither has only begun nor is about to end. */
export async function serves(ground: Pick<Ground, 'health'>, program: Program): Promise<boolean> {
	const { target } = ground.health(program);
	if (target === null || !('greeting' in target)) return false;
	const said = await greeting(target.greeting, ANSWER_WITHIN_MS).catch(() => null);
	return said?.startsWith('alive ') === true;
}

/** Resolves once one of them serves, or when none does for long; at once when there are none. */
export async function oneServes(ground: Pick<Ground, 'health'>, programs: readonly Program[], given: () => void): Promise<void> {
	const deadline = systemClock.monotonic() + SERVES_WITHIN_MS;
	while (programs.length > 0 && systemClock.monotonic() < deadline) {
		given();
		for (const program of programs) if (await serves(ground, program)) return;
		await pause(LOOK_MS);
	}
}

export function sharesPorts(one: Program, other: Program): boolean {
	return one.regions.join() === other.regions.join();
}
