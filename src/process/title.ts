/**
 * What `ps` shows of every program of an installation: `jibe <role> <script> [names] <data>`. Given as argv0 when
 * it is started, because a `process.title` set later is cut to the length of the first one.
 */
export type ProgramRole = 'up' | 'control' | 'builder' | 'agent' | 'depot' | 'edge' | 'instance';

export function programTitle(role: ProgramRole): string {
	return `jibe ${role}`;
}
