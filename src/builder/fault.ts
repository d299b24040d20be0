/** A build that ended for a reason of the source's own: told to the person who wrote it, never tried again. */
export class BuildFault extends Error {
	readonly reason: string;
	readonly hint: string | null;
	/** Which stage it ends. */
	readonly state: 'BuildFailed' | 'TestFailed';
	constructor(reason: string, message: string, hint: string | null, more: { state?: 'TestFailed'; cause?: unknown } = {}) {
		super(message, { cause: more.cause });
		this.reason = reason;
		this.hint = hint;
		this.state = more.state ?? 'BuildFailed';
	}

	/** For a person: what happened and what to do. */
	detail(): string {
		return this.hint === null ? this.message : `${this.message}\n${this.hint}`;
	}
}
