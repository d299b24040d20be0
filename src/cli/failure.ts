/** Exit codes: a contract with scripts. */
export const EXIT = {
	done: 0,
	/** The app's own fault; nothing moved. */
	app: 1,
	/** Usage, config, or refused for safety. */
	usage: 2,
	/** Rolled back, cancelled, superseded, timed out. */
	notLive: 3,
	/** Jibe's or the network's fault. */
	jibe: 4,
	notAllowed: 5,
} as const;
export type Exit = (typeof EXIT)[keyof typeof EXIT];

/** What a verb ends with when it can't do what was asked: told to a person, and to scripts by `code` and the exit code. */
export class Failure extends Error {
	readonly code: string;
	readonly exit: Exit;
	/** What to do next. */
	readonly hint: string | null;
	/** More members for the `--json` object. */
	readonly fields: Record<string, unknown>;

	constructor(
		code: string,
		exit: Exit,
		message: string,
		more: { hint?: string | null; cause?: unknown; fields?: Record<string, unknown> } = {},
	) {
		super(message, { cause: more.cause });
		this.code = code;
		this.exit = exit;
		this.hint = more.hint ?? null;
		this.fields = more.fields ?? {};
	}
}

export function usage(message: string, hint: string | null = null): Failure {
	return new Failure('usage', EXIT.usage, message, { hint });
}
