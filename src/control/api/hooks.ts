import { z } from 'zod';
import { repositoryName, verdictHook } from '#wire/repositories.ts';
import { authenticate, authorise, bearer, type Caller } from '../access.ts';
import type { House } from '../house.ts';
import { Refusal } from '../ports.ts';
import { HookBodies } from '../repositories/hook-body.ts';
import { DIALECTS, parse, receive, signersOf, type Delivery, type Sender } from '../repositories/receive.ts';
import { alertmanagerHook, judge, judgeAlerts, judged, type Judged } from '../repositories/verdicts.ts';
import { signedAt } from '../repositories/forges/generic.ts';
import { route, type Ask, type Route } from '../route.ts';

const senders = z.enum(Object.keys(DIALECTS) as [Sender, ...Sender[]]);
const received = z.object({
	repository: z.string(),
	delivery: z.string(),
	/** waits: it is looked at as soon as possible. already: it was told before. ignored: there is nothing to do for it. */
	did: z.enum(['waits', 'already', 'ignored']),
});

/** Where forges, and whoever else watches, tell Jibe something. */
export function hookRoutes(house: House, hurry: () => void): Route[] {
	const bodies = new HookBodies(house.clock);
	return [
		alerts(house),
		route({
			method: 'POST',
			path: '/hooks/:forge',
			summary: 'A webhook of any repository of that forge that has the secret it is signed with; generic: a verdict, with a token.',
			role: 'public',
			params: z.object({ forge: senders }),
			answer: z.union([received, judged]),
			handle: (ask) => hook({ house, bodies, hurry }, ask, { sender: ask.params.forge, repository: null }),
		}),
		route({
			method: 'POST',
			path: '/hooks/:forge/:repository',
			summary: 'A webhook of that repository, signed with its secret.',
			role: 'public',
			params: z.object({ forge: senders, repository: repositoryName }),
			answer: z.union([received, judged]),
			handle: (ask) => hook({ house, bodies, hurry }, ask, { sender: ask.params.forge, repository: ask.params.repository }),
		}),
	];
}

function alerts(house: House): Route {
	return route({
		method: 'POST',
		path: '/hooks/alertmanager',
		summary: "Alertmanager's webhook: an alert that fires and names an app ends its walk or watch; a token of a deployer, as bearer.",
		role: 'deployer',
		body: alertmanagerHook,
		answer: z.object({ judged: z.array(judged) }),
		async handle({ body, caller }) {
			return { judged: await judgeAlerts(house, body, caller) };
		},
	});
}

async function hook(
	{ house, bodies, hurry }: { house: House; bodies: HookBodies; hurry: () => void },
	{ request }: Pick<Ask, 'request'>,
	{ sender, repository }: Pick<Delivery, 'sender' | 'repository'>,
): Promise<z.infer<typeof received> | Judged> {
	const { headers } = request;
	const caller = sender === 'generic' && bearer(request) !== null ? await authenticate(request, house.state) : null;
	const delivery = { sender, repository, headers, body: await bodies.read(request) };
	if (sender === 'generic' && headers['x-jibe-signature'] === undefined && caller) return verdictBy(house, caller, delivery);
	if (sender === 'generic' && saysVerdict(delivery)) return verdictSigned(house, caller, delivery);
	const { repository: row, id, already, waits } = await receive(house, delivery);
	if (!already && waits) hurry();
	house.log.info('hook.received', { repository: row.name, delivery: id, already, waits });
	return { repository: row.name, delivery: id, did: already ? 'already' : waits ? 'waits' : 'ignored' };
}

/** Whether it was signed is found out next, either way. */
function saysVerdict({ body }: Delivery): boolean {
	return /"event"\s*:\s*"verdict"/.test(body.subarray(0, 4_096).toString());
}

function readVerdict(delivery: Delivery) {
	const parsed = verdictHook.safeParse(parse(delivery));
	if (parsed.success) return parsed.data;
	const { path, message } = parsed.error.issues[0]!;
	throw new Refusal('bad_request', 400, `this is no verdict: ${path.join('.') || 'the body'}: ${message}`);
}

async function verdictBy(house: House, caller: Caller, delivery: Delivery): Promise<Judged> {
	const said = readVerdict(delivery);
	authorise(caller, 'deployer', { app: said.app, environment: said.environment });
	return judge(house, said, caller.by);
}

/** A repository's secret speaks for its apps; to swing back what is not watched any more, it needs a token beside it. */
async function verdictSigned(house: House, caller: Caller | null, delivery: Delivery): Promise<Judged> {
	const signers = await signersOf(house, delivery);
	const said = readVerdict(delivery);
	const signer = signers.find(({ apps }) => apps.some(({ app }) => app === said.app));
	if (!signer) throw new Refusal('forbidden', 403, `${said.app} is not an app of the repository that signed this`);
	if (said.rollback) {
		if (!caller)
			throw new Refusal('forbidden', 403, 'what is not watched any more is rolled back with a token only', 'send it as bearer, too');
		authorise(caller, 'deployer', { app: said.app, environment: said.environment });
	}
	// A replay says nothing that is newer than its signature.
	const since = Math.min(said.since ?? Infinity, signedAt(delivery.headers));
	return judge(house, { ...said, since }, caller?.by ?? `hook:${signer.name}`);
}
