/** By what a control is recognised. Without schemas: every command to a control on another machine needs it at once. */

/** Name that control's listener presents Jibe's own certificate for (by SNI), whatever other certificate it has. */
export function controlName(installation: string): string {
	return `control.${installation}.jibe`;
}

/** A clock that is off by more is told so instead of whatever would fail because of it. */
export const CLOCK_OFF_MS = 5 * 60_000;
