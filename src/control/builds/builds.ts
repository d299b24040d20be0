import type { Deployment, Event } from '#wire/api.ts';
import type { BuildLogLine, BuildView, NewBuild, StepReport } from '#wire/builds.ts';
import type { House } from '../house.ts';
import { Refusal } from '../ports.ts';

/** The queue of builds, as the other parts of control see it. */

/** What happens to a build, and, once its artifact was taken, to the deployment of the same id; `end` comes once, as the last. */
export type BuildNews =
	/** It entered a state: Queued, Building, Testing, Packaging, Uploading; then those of the deployment. */
	| { type: 'stage'; state: Deployment['state']; at: number; reason: string | null; detail: string | null; attempt: number }
	| { type: 'step'; step: StepReport; attempt: number }
	| { type: 'log'; lines: BuildLogLine[] }
	/** Of the deployment, as its progress streams tell them. */
	| { type: 'event'; event: Event }
	| { type: 'end'; end: BuildEnd };

export interface BuildEnd {
	build: BuildView;
	/** Null: it never became one. With `already` it may be another one: what it made was live as that. */
	deployment: Deployment | null;
	already: boolean;
}

/**
 * Queues a build, unless one of the same commit is on its way to the same place or was deployed there last (`already`, with
 * its id). A newer one of the same branch supersedes what is queued of it and stops what runs.
 */
export function enqueue(house: House, input: NewBuild): Promise<{ id: string; already: boolean }> {
	throw notYet(house, input);
}

/** Tells all that has happened to it so far, then all that happens, and ends by itself; the function returned ends it earlier. */
export function follow(house: House, id: string, listener: (news: BuildNews) => void): () => void {
	throw notYet(house, id, listener);
}

/** Ends a queued build at once, stops a running one; of one that is a deployment by now, cancels that. @throws Refusal 404, 409 */
export function cancel(house: House, id: string, by: string): Promise<BuildView> {
	throw notYet(house, id, by);
}

/** Queues what a build that ended without an artifact was to make once more, under a new id. @throws Refusal 404, 409 */
export function retry(house: House, id: string, by: string): Promise<{ id: string; already: boolean }> {
	throw notYet(house, id, by);
}

function notYet(..._: unknown[]): Refusal {
	return new Refusal('no_queue', 503, 'this control does not build');
}
