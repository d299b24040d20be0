import { BlobCorrupt, BlobMissing, StoreFull, StoreRefused, StoreUnavailable, StoreUnfaithful } from '#store/blob-store.ts';
import { TreeError } from '#store/manifest.ts';
import { StateError } from '#state/state.ts';
import type { ErrorBody } from '#wire/api.ts';
import { UploadError } from '#wire/upload.ts';
import { Refusal } from './ports.ts';

/** What a caller is told of an error: a status and a code for programs, a sentence and what to do next for people. */

const BY_STATE_CODE: Record<StateError['code'], { status: number; hint: string | null }> = {
	fenced: { status: 409, hint: 'somebody else took the deployment over; look at "jibe status"' },
	stale: { status: 409, hint: 'it changed meanwhile; try again' },
	queue_full: { status: 503, hint: 'add builders (`jibe up --builders`), or cancel what is not wanted any more' },
	read_only: { status: 409, hint: 'what serves goes on; "jibe control recover APP" makes what the regions serve the truth again' },
	blob_missing: { status: 409, hint: 'upload the missing blobs and try again' },
	unknown: { status: 404, hint: null },
	illegal_transition: { status: 409, hint: null },
	cursor_pruned: { status: 410, hint: 'ask without "after" for a snapshot' },
	database_unavailable: { status: 503, hint: 'what serves goes on serving; try again in a few seconds' },
	database_full: { status: 503, hint: "make room on the database's disk, then try again" },
	join_token_unknown: { status: 403, hint: 'make one with "jibe server add", on the control that this server is to join' },
	join_token_used: { status: 403, hint: 'a join string lets one server in: make another with "jibe server add"' },
	join_token_expired: { status: 403, hint: 'a join string is good for 15 min: make another with "jibe server add"' },
	join_other_region: { status: 409, hint: 'make one for that region with "jibe server add --region", or join with a new data directory' },
	join_roles: { status: 403, hint: 'make one with "jibe server add --roles"' },
	server_exists: { status: 409, hint: 'choose another --name; or replace it with "jibe server add --name" or "jibe server remove"' },
	server_unknown: { status: 404, hint: '"jibe server list" shows them; a new one joins by "jibe server add"' },
	server_removed: { status: 403, hint: 'it can join again: "jibe server add" makes a join string' },
	server_replaced: { status: 403, hint: 'if this is the machine that is to have the name, join again by "jibe server add --name"' },
	server_conflict: { status: 403, hint: 'choose one: "jibe server add --name" and join with it there, or "jibe server remove"' },
	schema_unknown: { status: 503, hint: 'the database was written by a newer Jibe; upgrade this one' },
};

/** null: nothing a caller could have caused, so it is logged and answered with 500. */
export function asRefusal(error: unknown): Refusal | null {
	if (error instanceof Refusal) return error;
	if (error instanceof StateError) {
		const { status, hint } = BY_STATE_CODE[error.code];
		return new Refusal(error.code, status, error.message, hint);
	}
	if (error instanceof UploadError) return new Refusal(error.code, 400, error.message, 'send it again; nothing of it was kept');
	if (error instanceof TreeError) return new Refusal(error.code, 422, error.message);
	if (error instanceof BlobMissing) return new Refusal(error.code, 404, error.message);
	if (error instanceof BlobCorrupt) return new Refusal(error.code, 404, error.message, 'deploy again: what is damaged here is sent anew');
	if (error instanceof StoreUnavailable)
		return new Refusal(
			error.code,
			503,
			error.message,
			'nothing moved; what serves goes on serving, and a rollback needs no store. Try again',
		);
	if (error instanceof StoreRefused)
		return new Refusal(
			error.code,
			503,
			error.message,
			'nothing moved; the credentials and rights are those of control, in its environment',
		);
	if (error instanceof StoreUnfaithful)
		return new Refusal(error.code, 503, error.message, 'nothing moved; look at the store before you trust it with anything');
	if (error instanceof StoreFull)
		return new Refusal(
			error.code,
			507,
			error.message,
			'free some space on the disk of the data directory, then try again; what serves goes on serving',
		);
	return null;
}

export function errorJson(refusal: Refusal): ErrorBody {
	const { code, message, hint, data } = refusal;
	return { error: { code, message, hint, ...(data === undefined ? {} : { data }) } };
}

export const INTERNAL = new Refusal(
	'internal',
	500,
	'control could not answer this',
	"control's log says why: it is logs/control.log in the data directory",
);
