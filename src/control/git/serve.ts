import type { IncomingMessage } from 'node:http';
import { pipeline } from 'node:stream/promises';
import { createGunzip } from 'node:zlib';
import { z } from 'zod';
import { appName } from '#wire/names.ts';
import { authenticate, authorise, type Caller, type Role } from '../access.ts';
import type { House } from '../house.ts';
import { Refusal } from '../ports.ts';
import { asRefusal, errorJson } from '../refusals.ts';
import type { Pushes } from '../repositories/look.ts';
import { ANSWERED, route, type Ask, type Route } from '../route.ts';
import { startGit } from './git.ts';
import { FLUSH, pktLine } from './pkt-line.ts';
import { receivePush } from './push.ts';

/** git's "smart" HTTP (gitprotocol-http(5)) at `/git/<name>.git`: its own programs speak, control says who may. */

const ofGit = z.object({ repository: z.string().regex(/\.git$/).transform((name) => name.slice(0, -'.git'.length)).pipe(appName) }); // prettier-ignore
const SERVICES = { 'git-receive-pack': 'deployer', 'git-upload-pack': 'viewer' } as const satisfies Record<string, Role>;
type Service = keyof typeof SERVICES;
const services = z.object({ service: z.enum(['git-receive-pack', 'git-upload-pack']) });
const CHALLENGE = 'Basic realm="Jibe: any name, and a token as the password"';
const UPLOAD_LIMIT_MS = 10 * 60_000;

export function gitRoutes(house: House, pushes: Pushes): Route[] {
	return [
		route({
			method: 'GET',
			path: '/git/:repository/info/refs',
			summary: "The branches of a repository, for git. The password of git's basic authentication is a token.",
			role: 'public',
			params: ofGit,
			query: services,
			answer: 'application/x-git-advertisement',
			handle: (ask) => guarded(house, ask, ask.query.service, () => advertise(house, ask.query.service, ask)),
		}),
		route({
			method: 'POST',
			path: '/git/:repository/git-receive-pack',
			summary: 'git push: builds and deploys what its branches say, and shows it while it goes on.',
			role: 'public',
			params: ofGit,
			answer: 'application/x-git-receive-pack-result',
			handle: (ask) =>
				guarded(house, ask, 'git-receive-pack', (caller) =>
					receivePush({ house, pushes, name: ask.params.repository, caller, request: ask.request, response: ask.response }),
				),
		}),
		route({
			method: 'POST',
			path: '/git/:repository/git-upload-pack',
			summary: 'git fetch and git clone.',
			role: 'public',
			params: ofGit,
			answer: 'application/x-git-upload-pack-result',
			handle: (ask) => guarded(house, ask, 'git-upload-pack', () => upload(house, ask)),
		}),
	];
}

type GitAsk = Pick<Ask, 'request' | 'response'> & { params: { repository: string } };

/** Who asks, whether they may, and then the work; git shows a person why not where it is told in plain text. */
async function guarded(house: House, ask: GitAsk, service: Service, work: (caller: Caller) => Promise<void>): Promise<typeof ANSWERED> {
	const { request, response } = ask;
	try {
		const caller = await authenticate(withPassword(request), house.state);
		const { repository } = ask.params;
		await house.git.using(repository, async () => {
			await admit(house, caller, service, repository);
			await work(caller);
		});
	} catch (error) {
		const refusal = asRefusal(error);
		if (refusal === null || response.headersSent) throw error;
		const challenge = refusal.status === 401 ? { 'www-authenticate': CHALLENGE } : {};
		const plain = request.headers['user-agent']?.startsWith('git/') === true;
		response.writeHead(refusal.status, { 'content-type': plain ? 'text/plain' : 'application/json', ...challenge });
		response.end(plain ? [refusal.message, refusal.hint ?? ''].join('\n').trim() : JSON.stringify(errorJson(refusal)));
	}
	return ANSWERED;
}

/** A push by somebody who may makes the repository. */
async function admit(house: House, caller: Caller, service: Service, name: string): Promise<void> {
	const row = await house.state.repositories.get(name);
	for (const { app } of row?.apps ?? [{ app: name }]) authorise(caller, SERVICES[service], { app });
	if (service === 'git-receive-pack') {
		if (row && row.forge !== 'push')
			throw new Refusal('mirror', 403, `${name} mirrors ${row.url}: what is pushed there is deployed`, `git push ${row.url}`);
		await house.kept.refresh(name);
		await house.git.make(name);
	} else if (!(row && row.forge !== 'push' ? house.git.exists(name) : await house.kept.refresh(name)))
		throw new Refusal('repository_unknown', 404, `there is no repository ${name}`, 'git push makes it');
}

/** git signs in by a name and a password, which is the token; the name is anything. */
function withPassword(request: IncomingMessage): IncomingMessage {
	const basic = /^basic ([A-Za-z0-9+/=]+)$/i.exec(request.headers.authorization ?? '');
	if (basic) {
		const [, password = ''] = /^[^:]*:(.*)$/s.exec(Buffer.from(basic[1]!, 'base64').toString()) ?? [];
		request.headers.authorization = `Bearer ${password}`;
	}
	return request;
}

async function advertise(house: House, service: Service, { params, request, response }: GitAsk): Promise<void> {
	const directory = house.git.directory(params.repository);
	const args = [service.slice('git-'.length), '--stateless-rpc', '--http-backend-info-refs', directory];
	response.writeHead(200, { 'content-type': `application/x-${service}-advertisement`, 'cache-control': 'no-store' });
	if (!versionOf(request)) response.write(Buffer.concat([pktLine(`# service=${service}\n`), Buffer.from(FLUSH)]));
	const running = startGit(args, { directory, env: versionOf(request) ?? {} });
	await Promise.all([pipeline(running.output, response), running.ended]);
}

async function upload(house: House, { params, request, response }: GitAsk): Promise<void> {
	const directory = house.git.directory(params.repository);
	const input = /^(x-)?gzip$/i.test(request.headers['content-encoding'] ?? '') ? request.pipe(createGunzip()) : request;
	response.writeHead(200, { 'content-type': 'application/x-git-upload-pack-result', 'cache-control': 'no-store' });
	const running = startGit(['upload-pack', '--stateless-rpc', directory], {
		directory,
		env: versionOf(request) ?? {},
		input,
		limitMs: UPLOAD_LIMIT_MS,
	});
	response.once('close', () => running.kill());
	await Promise.all([pipeline(running.output, response), running.ended]);
}

/** The protocol's version 2 says less, where git asks for it. */
function versionOf(request: IncomingMessage): { GIT_PROTOCOL: string } | null {
	const asked = request.headers['git-protocol'];
	return asked === 'version=2' && request.method === 'POST' ? { GIT_PROTOCOL: asked } : null;
}
