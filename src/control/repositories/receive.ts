import type { IncomingHttpHeaders } from 'node:http';
import { z } from 'zod';
import { randomId } from '#digest/digest.ts';
import type { RepositoryRow } from '#state/repositories.ts';
import type { Forge } from '#wire/repositories.ts';
import type { House } from '../house.ts';
import { Refusal } from '../ports.ts';
import { readCloneUrl } from './clone-url.ts';
import type { ForgeDialect, Told } from './forges/forge.ts';
import { generic } from './forges/generic.ts';
import { gitea } from './forges/gitea.ts';
import { github } from './forges/github.ts';
import { gitlab } from './forges/gitlab.ts';

/** A webhook, from its bytes to a row that waits: who sent it → was it told before → what is to be looked at. */

export const DIALECTS: Readonly<Record<Exclude<Forge, 'push'>, ForgeDialect>> = { github, gitlab, gitea, generic };
export type Sender = keyof typeof DIALECTS;

/** Checked where there is no such repository, so that an answer takes as long. */
const NOBODYS_SECRET = 'nobody has this secret';
const MAX_ID_CHARACTERS = 200;

export interface Delivery {
	sender: Sender;
	/** Named in the path; null: whichever signed it. */
	repository: string | null;
	headers: IncomingHttpHeaders;
	body: Buffer;
}

export interface Received {
	repository: RepositoryRow;
	told: Told;
	id: string;
	/** It was told before. */
	already: boolean;
	/** There is something to look at. */
	waits: boolean;
}

/** @throws Refusal 401 bad_signature, 400 bad_request */
export async function receive(house: House, delivery: Delivery): Promise<Received> {
	const { sender, headers } = delivery;
	const signers = await signersOf(house, delivery);
	const body = parse(delivery);
	const told = read(DIALECTS[sender], headers, body);
	const repository = delivery.repository === null ? signers.find((row) => isOf(row, told.of)) : signers[0];
	if (!repository) throw badSignature();
	const given = DIALECTS[sender].delivery(headers);
	// Without a name it may be another push in the same words: to look once more does no harm.
	const id = given !== null && given.length <= MAX_ID_CHARACTERS ? given : `unnamed-${randomId()}`;
	const work = workOf(told);
	const ended = work.waits ? {} : { ended: { state: 'ignored' as const, outcome: work.outcome } };
	const row = { repository: repository.name, id, event: told.type === 'other' ? told.event.slice(0, 100) : told.type };
	const fresh = await house.state.deliveries.receive({ ...row, ref: work.ref, detail: work.detail, ...ended });
	return { repository, told, id, already: !fresh, waits: work.waits };
}

/** Those whose secret signed it. @throws Refusal where there is none */
export async function signersOf(house: House, { sender, repository, headers, body }: Delivery): Promise<RepositoryRow[]> {
	const { repositories } = house.state;
	const named = repository === null ? await repositories.list() : [await repositories.get(repository)];
	const rows = named.filter((row) => row !== null && row.forge === sender) as RepositoryRow[];
	const dialect = DIALECTS[sender];
	const now = house.clock.now();
	const opened = await Promise.all(rows.map(async (row) => ({ row, secret: (await house.repositorySecrets.open(row)).webhook })));
	const signers = opened.filter(({ secret }) => dialect.signed(headers, body, secret ?? NOBODYS_SECRET, now) && secret !== undefined);
	if (opened.length === 0) dialect.signed(headers, body, NOBODYS_SECRET, now);
	if (signers.length === 0) throw badSignature();
	return signers.map(({ row }) => row);
}

/** @throws Refusal 400 */
export function parse({ headers, body }: Delivery): unknown {
	const type = (headers['content-type'] ?? '').split(';', 1)[0]?.trim();
	// GitHub sends a form unless told otherwise.
	const text = type === 'application/x-www-form-urlencoded' ? (new URLSearchParams(body.toString()).get('payload') ?? '') : body.toString();
	try {
		return JSON.parse(text);
	} catch {
		throw new Refusal('bad_request', 400, 'the body is not JSON', 'choose the content type application/json for this webhook');
	}
}

function read(dialect: ForgeDialect, headers: IncomingHttpHeaders, body: unknown): Told {
	try {
		return dialect.read(headers, body);
	} catch (error) {
		if (!(error instanceof z.ZodError)) throw error;
		const { path, message } = error.issues[0]!;
		throw new Refusal('bad_request', 400, `this is not as a forge sends it: ${path.join('.') || 'the body'}: ${message}`);
	}
}

/** Tags, and what is only said, need no look. */
function workOf(told: Told): { waits: boolean; ref: string | null; detail: Record<string, unknown>; outcome: string } {
	if (told.type === 'push') return { waits: told.ref.startsWith('refs/heads/'), ref: told.ref, detail: {}, outcome: 'not a branch' };
	if (told.type === 'pull') return { waits: true, ref: told.pull.ref, detail: { ...told.pull }, outcome: '' };
	return { waits: false, ref: null, detail: {}, outcome: 'nothing to do for it' };
}

function isOf({ url }: RepositoryRow, path: string | null): boolean {
	return path !== null && url !== null && readCloneUrl(url).path.toLowerCase() === path.toLowerCase();
}

/** One answer for a wrong secret and for a repository that isn't there. */
function badSignature(): Refusal {
	return new Refusal(
		'bad_signature',
		401,
		'no repository here has the secret that this was signed with',
		'"jibe repo list" shows where each one\'s webhooks go; "jibe repo add" makes a new secret',
	);
}
