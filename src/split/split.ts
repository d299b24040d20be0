import { hash32 } from './hash.ts';

/**
 * Which release a user gets while a pointer names two. Each user has a fixed place on a line for one candidate; the
 * candidate takes the line's beginning, as long as its weight. So a user stays on one side while the weight stays,
 * and a growing weight only ever adds users to the candidate.
 */
export function takesCandidate(userKey: string, seed: number, weightBp: number): boolean {
	return hash32(userKey, seed) * (FULL_WEIGHT_BP / 2 ** 32) < weightBp;
}

/** Weights are basis points: 10,000 is everyone. */
export const FULL_WEIGHT_BP = 10_000;
/** How many groups of users the statistics tell apart. */
export const SLOTS = 64;

/**
 * The seed is the candidate's, not the pointer's version (which grows with every weight), so that the line stays
 * put during a ramp, and other users go first the next time.
 */
export function splitSeed(of: { app: string; environment: string; candidate: number }): number {
	return hash32(`split ${of.app} ${of.environment} v${of.candidate}`);
}

/** The user's group in the statistics: independent of which side the user is on, the same for every release. */
export function slotOf(userKey: string): number {
	return hash32(userKey, SLOT_SEED) & (SLOTS - 1);
}

const SLOT_SEED = 0x510751a7;
