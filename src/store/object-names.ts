import { systemClock } from '#clock/clock.ts';
import { randomId, type Digest } from '#digest/digest.ts';

/** Names of the objects of a store: they sort by age, and say what is in them. */

export const FOLDER = 'blobs/';

export function newName(): string {
	return `${timeName(systemClock.now())}-${randomId()}`;
}

export function timeName(at: number): string {
	return at.toString(16).padStart(12, '0');
}

/** When it was written, by its writer's clock. */
export function timeOf(name: string): number {
	return Number.parseInt(name.slice(FOLDER.length, FOLDER.length + 12), 16) || 0;
}

export function isPack(name: string): boolean {
	return name.endsWith('.pack');
}

/** The digest of the blob that the object is. */
export function wholeIn(name: string): Digest | null {
	const hex = /\.([0-9a-f]{64})(\.zst)?$/.exec(name)?.[1];
	return hex === undefined ? null : `sha256:${hex}`;
}

/** Of its copy. */
export function fileName(name: string): string {
	return name.slice(FOLDER.length);
}
