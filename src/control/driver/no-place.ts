import type { Placement } from '#placement/place.ts';
import { Refusal } from '../ports.ts';
import type { Candidate } from './candidates.ts';
import type { Key } from './reserved.ts';

/** Why a release can't run in a region, for who asked for it: before anything moved. */
export function refusalToPlace(
	{ region, app }: Key,
	instances: number,
	labels: readonly string[],
	refused: NonNullable<Placement['refused']>,
	candidates: readonly Candidate[],
): Refusal {
	const fitting = candidates.filter((one) => labels.every((label) => one.labels.includes(label)));
	switch (refused.reason) {
		case 'room':
			return noRoom(region, app, instances, refused, candidates);
		case 'no_server': {
			const there = candidates.map(({ name, labels: all }) => `${name} has ${all.length === 0 ? 'none' : all.join(', ')}`);
			return new Refusal(
				'no_server',
				422,
				`no server of region ${region} has the labels that ${app} asks for with "servers": ${labels.join(', ')}`,
				`${there.join('; ')}. Correct "servers" in jibe.json, or add a server: jibe server add --region ${region} --labels ${labels.join(',')}`,
				{ region, labels },
			);
		}
		case 'closed':
			return new Refusal(
				'no_server',
				409,
				`no server of region ${region} takes new instances of ${app} now: ${fitting.map((one) => `${one.name} ${WHY[one.why ?? 'away']}`).join(', ')}`,
				`\`jibe server list\` shows them; add one with jibe server add --region ${region}`,
				{ region, servers: Object.fromEntries(fitting.map((one) => [one.name, one.why])) },
			);
	}
}

const WHY = {
	draining: 'is being drained',
	removed: 'was removed',
	lost: 'is lost',
	away: 'is away',
	disk: 'has a full disk',
} as const;

function noRoom(
	region: string,
	app: string,
	instances: number,
	{ server, missingMiB }: { server: string; missingMiB: number },
	candidates: readonly Candidate[],
): Refusal {
	const one = candidates.find(({ name }) => name === server);
	const nearest = candidates.length > 1 ? ', and the other servers have less room' : '';
	return new Refusal(
		'room',
		507,
		`there is no room for ${instances === 1 ? 'an instance' : `${instances} instances`} of ${app} in ${region}: server ${server} lacks ${missingMiB} MiB of memory (its budget is ${one?.budgetMiB} MiB)${nearest}`,
		`nothing moved. Add a server (jibe server add --region ${region}), lower "instances", or remove an app`,
		{ region, server, missingMiB },
	);
}
