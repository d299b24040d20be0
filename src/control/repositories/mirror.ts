import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { RepositoryRow } from '#state/repositories.ts';
import { bytesIn } from '#store/least-used.ts';
import { GitError, git } from '../git/git.ts';
import type { House } from '../house.ts';
import { OutboundError } from '../outbound/outbound.ts';
import { readCloneUrl, type CloneTarget } from './clone-url.ts';
import type { Opened } from './secrets.ts';

/**
 * Mirrors of repositories that live elsewhere: bare, shallow, and without the old contents of files. What is fetched is
 * checked by git, limited in size and time, and comes from the address that was judged; nothing of it is ever run.
 */

const FETCH_LIMIT_MS = 5 * 60_000;
/** Of one fetch. */
const MAX_PACK_BYTES = 1024 * 1024 * 1024;
/** Of all fetches: a mirror that has become larger is fetched anew. */
const MAX_MIRROR_BYTES = 4 * 1024 * 1024 * 1024;
/** As many commits are known to be ancestors of what is built. */
const DEPTH = 50;
/** Slower than this for so long is as good as dead. */
const LOW_SPEED_BYTES = '1000';
const LOW_SPEED_S = '30';
const SSH_CONNECT_S = 15;
const KEY_MODE = 0o600;
/** Knows `http.curloptResolve`. */
const OLDEST_GIT = [2, 37] as const;

export interface FetchLimits {
	limitMs: number;
	maxPackBytes: number;
	maxMirrorBytes: number;
}
export const FETCH_LIMITS: FetchLimits = { limitMs: FETCH_LIMIT_MS, maxPackBytes: MAX_PACK_BYTES, maxMirrorBytes: MAX_MIRROR_BYTES };

/** Where a branch was and is; null: nowhere. */
export interface Moved {
	before: string | null;
	after: string | null;
}

export type CloneErrorCode =
	| 'git_too_old'
	| 'address_refused'
	| 'insecure_url'
	| 'clone_unauthorised'
	| 'repository_not_found'
	| 'host_key_changed'
	| 'repository_too_large'
	| 'repository_damaged'
	| 'clone_too_slow'
	| 'clone_unreachable'
	| 'clone_failed';

export class CloneError extends Error {
	readonly code: CloneErrorCode;
	/** It may go better another time. */
	readonly again: boolean;
	constructor(code: CloneErrorCode, message: string, again: boolean, options?: ErrorOptions) {
		super(message, options);
		this.code = code;
		this.again = again;
	}
}

export class Mirrors {
	private readonly house: Pick<House, 'git' | 'outbound' | 'log'>;
	private readonly limits: FetchLimits;
	private version: number[] | null = null;

	constructor(house: Pick<House, 'git' | 'outbound' | 'log'>, limits: FetchLimits = FETCH_LIMITS) {
		this.house = house;
		this.limits = limits;
	}

	/**
	 * Brings `remote` (`refs/heads/main`, `refs/pull/7/head`, or a commit) here as `local`, with all files of its newest
	 * commit. @throws CloneError
	 */
	async bring(row: RepositoryRow, secrets: Opened, remote: string, local: string, stop?: AbortSignal): Promise<Moved> {
		const moved = await this.house.git.using(row.name, () => this.update(row, secrets, remote, local, stop));
		const { git: repositories, log } = this.house;
		repositories
			.tidy(row.name, { partial: true })
			.catch((error: unknown) => log.warn('repository.untidy', { repository: row.name, error }));
		return moved;
	}

	private async update(row: RepositoryRow, secrets: Opened, remote: string, local: string, stop?: AbortSignal): Promise<Moved> {
		const directory = await this.house.git.make(row.name);
		const before = await readRef(directory, local);
		const way: Way = { ...(await this.way(row, secrets, directory)), ...(stop ? { signal: stop } : {}) };
		try {
			const there = await this.fetch(directory, way, `+${remote}:${local}`);
			if (!there) {
				if (before !== null) await git(['update-ref', '-d', local], { directory });
				return { before, after: null };
			}
			const after = await readRef(directory, local);
			if (after !== null) await this.fetchFiles(directory, way, after);
			await this.checkSize(row.name, directory);
			return { before, after };
		} catch (error) {
			await removeDrafts(directory);
			throw error;
		} finally {
			await way.close();
		}
	}

	/** Whether this commit is here with all its files. */
	async has(name: string, commit: string): Promise<boolean> {
		if (!this.house.git.exists(name)) return false;
		const directory = this.house.git.directory(name);
		try {
			await git(['cat-file', '-e', `${commit}^{commit}`], { directory });
			return (await missingObjects(directory, commit)).length === 0;
		} catch (error) {
			if (error instanceof GitError) return false;
			throw error;
		}
	}

	private async fetch(directory: string, way: Way, refspec: string): Promise<boolean> {
		const args = ['fetch', ...QUIETLY, `--depth=${DEPTH}`, '--filter=blob:none', 'origin', refspec];
		try {
			await this.run(args, directory, way);
			return true;
		} catch (error) {
			if (error instanceof GitError && /couldn't find remote ref|no such remote ref/i.test(error.said)) return this.nothingThere(way);
			throw cloneError(error, way.target, this.limits);
		}
	}

	/** A page of HTML is to git a repository without branches: that one is gone is believed of git alone. */
	private async nothingThere({ target: { protocol, host, path }, url, authorization }: Way): Promise<false> {
		if (protocol === 'ssh') return false;
		const headers = { 'git-protocol': 'version=2', ...(authorization === null ? {} : { authorization }) };
		const answer = await this.house.outbound
			.ask({ method: 'GET', url: `${url}/info/refs?service=git-upload-pack`, headers })
			.catch(() => null);
		const type = answer?.headers['content-type'] ?? '';
		if (answer?.status === 200 && type.startsWith('application/x-git-upload-pack-advertisement')) return false;
		throw new CloneError('repository_not_found', `what answers at ${host} (${path}) is not git`, true);
	}

	/** The contents of files, in one go. A server that doesn't leave them out has sent them already. */
	private async fetchFiles(directory: string, way: Way, commit: string): Promise<void> {
		const missing = await missingObjects(directory, commit);
		if (missing.length === 0) return;
		const args = ['-c', 'fetch.negotiationAlgorithm=noop', 'fetch', ...QUIETLY, '--filter=blob:none', '--stdin', 'origin'];
		try {
			await this.run(args, directory, way, `${missing.join('\n')}\n`);
		} catch (error) {
			throw cloneError(error, way.target, this.limits);
		}
		const still = await missingObjects(directory, commit);
		if (still.length > 0)
			throw new CloneError('repository_damaged', `${way.target.host} has not sent ${still.length} files of commit ${commit}`, true);
	}

	private async run(args: string[], directory: string, { config, env, signal }: Way, input?: string): Promise<void> {
		const { limitMs, maxPackBytes: maxFileBytes } = this.limits;
		await git(args, {
			directory,
			config,
			env,
			limitMs,
			maxFileBytes,
			nice: true,
			...(input === undefined ? {} : { input }),
			...(signal ? { signal } : {}),
		});
	}

	/** An older git would ask for the address again, and might be told another. */
	private async checkVersion(directory: string): Promise<void> {
		this.version ??=
			/(\d+)\.(\d+)/
				.exec(await git(['version'], { directory }))
				?.slice(1)
				.map(Number) ?? [];
		const [major = 0, minor = 0] = this.version;
		if (major > OLDEST_GIT[0] || (major === OLDEST_GIT[0] && minor >= OLDEST_GIT[1])) return;
		const message = `control's git is ${major}.${minor}: to fetch from elsewhere safely it has to be ${OLDEST_GIT.join('.')} or later`;
		throw new CloneError('git_too_old', message, false);
	}

	/** How git gets there, and as whom. */
	private async way(row: RepositoryRow, secrets: Opened, directory: string): Promise<Way> {
		const target = readCloneUrl(row.url ?? '');
		const { host, port, protocol } = target;
		if (protocol !== 'ssh') await this.checkVersion(directory);
		let address: string;
		let listed: boolean;
		try {
			({ address, listed } = await this.house.outbound.target(host, port));
		} catch (error) {
			if (!(error instanceof OutboundError)) throw error;
			throw new CloneError(error.final ? 'address_refused' : 'clone_unreachable', error.message, !error.final, { cause: error });
		}
		if (protocol === 'http' && !listed)
			throw new CloneError(
				'insecure_url',
				`http:// shows ${host}'s files, and the token for them, to everybody on the way: use https://`,
				false,
			);
		const config = { ...CONFIG, 'remote.origin.url': row.url!, [`protocol.${protocol}.allow`]: 'always' };
		if (protocol === 'ssh') return sshWay(target, address, secrets, dirname(directory), config);
		const secret = secrets.clone ?? secrets.token;
		const authorization = secret === undefined ? null : `Basic ${basic(row.forge, secret)}`;
		const pinned = `${host.includes(':') ? `[${host}]` : host}:${port}:${address.includes(':') ? `[${address}]` : address}`;
		return {
			target,
			url: row.url!,
			authorization,
			config: {
				...config,
				'http.curloptResolve': pinned,
				...(authorization === null ? {} : { 'http.extraHeader': `Authorization: ${authorization}` }),
			},
			env: {},
			close: async () => {},
		};
	}

	private async checkSize(name: string, directory: string): Promise<void> {
		const bytes = await bytesIn(join(directory, 'objects'));
		if (bytes <= this.limits.maxMirrorBytes) return;
		// What was fetched over the months is let go of; the next fetch brings what is needed.
		this.house.log.warn('mirror.too_large', { repository: name, bytes });
		await this.house.git.remove(name);
		throw new CloneError('repository_too_large', `the mirror of ${name} had ${mib(bytes)}: it is fetched anew`, true);
	}
}

interface Way {
	target: CloneTarget;
	url: string;
	/** As a header; null over ssh, or without a secret. */
	authorization: string | null;
	config: Record<string, string>;
	env: Record<string, string>;
	/** Ends what is under way. */
	signal?: AbortSignal;
	close(): Promise<void>;
}

const QUIETLY = ['--quiet', '--no-tags', '--no-write-fetch-head', '--no-recurse-submodules', '--no-auto-maintenance', '--force'];

const CONFIG: Record<string, string> = {
	'remote.origin.promisor': 'true',
	'remote.origin.partialCloneFilter': 'blob:none',
	'fetch.fsckObjects': 'true',
	// A pack stays one file, and that has a limit.
	'fetch.unpackLimit': '1',
	'submodule.recurse': 'false',
	'http.followRedirects': 'false',
	'http.lowSpeedLimit': LOW_SPEED_BYTES,
	'http.lowSpeedTime': LOW_SPEED_S,
	'http.proxy': '',
	'http.sslVerify': 'true',
	'credential.helper': '',
};

/** GitHub and GitLab ask for any name, or one of their own, beside a token; a name may be given before a colon. */
function basic(forge: RepositoryRow['forge'], secret: string): string {
	const user = forge === 'gitlab' ? 'oauth2' : 'x-access-token';
	return Buffer.from(secret.includes(':') ? secret : `${user}:${secret}`).toString('base64');
}

async function sshWay(target: CloneTarget, address: string, secrets: Opened, root: string, config: Record<string, string>): Promise<Way> {
	const { host, port, user } = target;
	const key = secrets.deploy_key;
	const directory = await mkdtemp(join(root, '.key-'));
	const file = join(directory, 'key');
	if (key !== undefined) await writeFile(file, key.endsWith('\n') ? key : `${key}\n`, { mode: KEY_MODE });
	const options = {
		HostName: address,
		HostKeyAlias: port === 22 ? host : `[${host}]:${port}`,
		Port: String(port),
		User: user ?? 'git',
		IdentityFile: key === undefined ? 'none' : file,
		IdentitiesOnly: 'yes',
		IdentityAgent: 'none',
		BatchMode: 'yes',
		// The first key that a host shows is remembered, and another one refused.
		StrictHostKeyChecking: 'accept-new',
		UserKnownHostsFile: join(root, 'known_hosts'),
		GlobalKnownHostsFile: '/dev/null',
		UpdateHostKeys: 'no',
		CheckHostIP: 'no',
		ForwardAgent: 'no',
		ForwardX11: 'no',
		ProxyCommand: 'none',
		ConnectTimeout: String(SSH_CONNECT_S),
		ServerAliveInterval: String(SSH_CONNECT_S),
	};
	const words = Object.entries(options).map(([name, value]) => `-o ${quoted(`${name}=${value}`)}`);
	return {
		target,
		url: config['remote.origin.url']!,
		authorization: null,
		config: { ...config, 'ssh.variant': 'ssh' },
		env: { GIT_SSH_COMMAND: `ssh -F none ${words.join(' ')}` },
		close: () => rm(directory, { recursive: true, force: true }),
	};
}

function quoted(text: string): string {
	return `'${text.replaceAll("'", `'\\''`)}'`;
}

async function readRef(directory: string, ref: string): Promise<string | null> {
	const text = await git(['for-each-ref', '--format=%(objectname)', ref], { directory });
	return text.trim() || null;
}

/** Files of a commit whose contents are not here. */
async function missingObjects(directory: string, commit: string): Promise<string[]> {
	const args = ['rev-list', '--objects', '--no-object-names', '--missing=print', '--no-walk', commit];
	const text = await git(args, { directory, config: { 'remote.origin.promisor': 'true' } });
	return text.split('\n').flatMap((line) => (line.startsWith('?') ? [line.slice(1)] : []));
}

/** What git had begun to write when it was ended. */
async function removeDrafts(directory: string): Promise<void> {
	const packs = join(directory, 'objects', 'pack');
	const files = await readdir(packs).catch(() => []);
	await Promise.all(files.filter((file) => file.startsWith('tmp_')).map((file) => rm(join(packs, file), { force: true })));
}

function mib(bytes: number): string {
	return `${Math.ceil(bytes / 1024 / 1024)} MiB`;
}

const SAID: readonly [pattern: RegExp, code: CloneErrorCode, again: boolean, what: string][] = [
	[
		/HTTP 40[13]|returned error: 40[13]|Authentication failed|could not read (Username|Password)|Permission denied \(|terminal prompts disabled/i,
		'clone_unauthorised',
		false,
		'does not let Jibe read it: is the token or deploy key there, and may it read this repository?',
	],
	[/REMOTE HOST IDENTIFICATION HAS CHANGED|Host key verification failed/, 'host_key_changed', false, 'shows another host key than before; if that is right, take its line out of git/known_hosts in the data directory'],
	[/returned error: 404|not found|does not exist|does not appear to be a git repository/i, 'repository_not_found', false, 'knows no such repository, or does not show it to Jibe'],
	[/File too large|File size limit exceeded|pack exceeds maximum/i, 'repository_too_large', false, 'sends more than a repository may have'],
	[/fsck error|error in object|did not receive expected object|bad object|invalid .*pack|pack has bad|remote did not send all/i, 'repository_damaged', false, 'sends what git finds to be damaged or dangerous'],
	[/returned error: 30\d|redirect/i, 'repository_not_found', false, 'has it somewhere else now: change its URL with "jibe repo add"'],
	[/Empty reply|Could not resolve|Failed to connect|Connection (refused|timed out|reset|closed)|Could not connect|timed out|early EOF|RPC failed|hung up|returned error: 5/i, 'clone_unreachable', true, 'can\'t be reached, or broke off'],
]; // prettier-ignore

function cloneError(error: unknown, { host, path }: CloneTarget, { limitMs, maxPackBytes }: FetchLimits): unknown {
	if (!(error instanceof GitError)) return error;
	const said = printable(error.said);
	const where = `${host} (${path})`;
	if (error.code === null)
		return new CloneError('clone_too_slow', `${where} did not send it within ${limitMs / 1000} s`, true, { cause: error });
	const known = SAID.find(([pattern]) => pattern.test(said));
	if (!known) return new CloneError('clone_failed', `${where}: ${lastLine(said)}`, true, { cause: error });
	const [, code, again, what] = known;
	const more = code === 'repository_too_large' ? ` (${mib(maxPackBytes)})` : code === 'repository_damaged' ? `: ${lastLine(said)}` : '';
	return new CloneError(code, `${where} ${what}${more}`, again, { cause: error });
}

/** What a server says of itself is shown to people, and in their terminals. */
function printable(text: string): string {
	return text.replaceAll(/[^\x20-\x7e\n]/g, '');
}

function lastLine(text: string): string {
	const lines = text.split('\n').filter((line) => /^(fatal|error|remote):/.test(line));
	return (lines[0] ?? text.split('\n').at(-1) ?? '').slice(0, 300);
}
