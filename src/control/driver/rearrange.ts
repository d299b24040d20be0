import { samePlaced } from '#placement/place.ts';
import type { Run, Want } from '#wire/region.ts';
import type { PointerWrite } from '../ports.ts';
import type { Lane } from './lane.ts';

/** Instances go where they should be by now: off servers that drain or are lost, onto those that joined. true: something was written. */
export async function rearrange(lane: Lane): Promise<boolean> {
	const moves = [...lane.wants.values()].flatMap((want) => {
		const run = lane.placing.rearranged(want, lane.labelsOf);
		return run ? [{ want, run }] : [];
	});
	if (moves.length === 0) return false;
	const writes = moves.map(({ want, run }): PointerWrite => {
		const { region, epoch, version, pointer } = want;
		return { region, expect: { epoch, version }, pointer, run };
	});
	const { app, environment } = lane;
	// The fence of what it drives: another control that has taken the lane over decides for itself.
	const walk = lane.walking() ?? lane.swinging()[0] ?? lane.live() ?? lane.walks.at(-1);
	if (walk) await lane.record(walk, { writes, events: moves.map(({ want, run }) => movedEvent(want, run)) });
	else lane.send(await lane.settings.store.write({ app, environment, writes }), null);
	lane.log.info('instances.moved', { regions: moves.map(({ want, run }) => movedEvent(want, run).data) });
	return true;
}

function movedEvent(want: Want, run: readonly Run[]): { type: string; data: Record<string, unknown> } {
	const changed = run.filter(({ placed = {} }, i) => !samePlaced(placed, want.run[i]!.placed ?? {}));
	const releases = Object.fromEntries(changed.map(({ release, placed }) => [`v${release}`, placed]));
	return { type: 'instances.moved', data: { region: want.region, placed: releases } };
}
