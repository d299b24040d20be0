import { spawn } from 'node:child_process';
import { createPublicKey } from 'node:crypto';
import { closeSync, mkdirSync, openSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { systemClock } from '#clock/clock.ts';
import { sha256 } from '#digest/digest.ts';
import type { Log } from '#log/log.ts';
import { prove } from '#wire/join.ts';
import { PACKAGE_ID_DIGITS, packageText, runsPackage } from '#wire/package.ts';
import { servers as serversSchema } from '#wire/region.ts';
import type { ServerIdentity } from '#wire/server-identity.ts';
import { EXIT, Failure } from '../failure.ts';
import { noteProblem, readAttempt, writeAttempt } from '../installed/attempt.ts';
import { placeOf } from '../installed/chosen.ts';
import { ownPackage } from '../installed/package.ts';
import { open } from '../server.ts';
import { controlOf, identityDirectory } from './check-in.ts';

/**
 * A joined server goes over to the package that control names for it: fetched from control, checked by its digest, and
 * handed to `jibe upgrade`, which replaces this supervisor and then the programs, one after the other, or goes back.
 */

const LOOK_EACH_MS = 1_000;
const ABANDONED_AFTER_MS = 60_000;
const MAX_PROBLEM_CHARS = 1_500;

export interface Runs {
	version: string;
	package: string | null;
	problem: string | null;
}

/** What this supervisor is of, and what went wrong with what it was to be. */
export function runsHere(data: string): Runs {
	const { root, version } = ownPackage();
	const id = basename(dirname(dirname(root)));
	const unpacked = new RegExp(`^[0-9a-f]{${PACKAGE_ID_DIGITS}}$`).test(id);
	return { version, package: unpacked ? id : null, problem: readAttempt(data)?.problem ?? null };
}

export class OwnUpgrade {
	readonly #data: string;
	readonly #log: Log;
	/** Tells control. */
	readonly #tell: () => Promise<void>;
	#identity: () => ServerIdentity;
	#lookedAt = 0;
	#running = false;

	constructor(of: { data: string; identity: () => ServerIdentity; log: Log; tell: () => Promise<void> }) {
		this.#data = of.data;
		this.#identity = of.identity;
		this.#log = of.log;
		this.#tell = of.tell;
	}

	/** The list of servers says it, whoever of the programs hears it first. */
	watch(): void {
		// One that was under way, and ended without a word: the machine went off, or the command was killed.
		systemClock.after(
			ABANDONED_AFTER_MS,
			() => {
				if (readAttempt(this.#data)?.problem !== null || this.#running) return;
				noteProblem(this.#data, 'it was interrupted');
				this.#tell().catch((error: unknown) => this.#log.warn('upgrade', { error }));
			},
			{ idle: true },
		);
		systemClock.every(LOOK_EACH_MS, () => {
			const changedAt = statSync(this.#list, { throwIfNoEntry: false })?.mtimeMs ?? 0;
			if (changedAt === this.#lookedAt || this.#running) return;
			this.#lookedAt = changedAt;
			this.#look().catch((error: unknown) => this.#log.error('upgrade', { error }));
		});
	}

	get #list(): string {
		return join(identityDirectory(this.#data), 'servers.json');
	}

	async #look(): Promise<void> {
		const { version, servers } = serversSchema.parse(JSON.parse(readFileSync(this.#list, 'utf8')));
		const wanted = servers.find(({ name }) => name === this.#identity().server)?.package;
		if (wanted === undefined || runsPackage(runsHere(this.#data).package, wanted)) return writeAttempt(this.#data, null);
		const attempt = readAttempt(this.#data);
		// Told again, it tries again.
		if (attempt?.wanted === wanted && attempt.version >= version) return this.#log.debug('upgrade.failed_before', { wanted });
		this.#running = true;
		try {
			this.#log.info('upgrade.begin', { wanted });
			writeAttempt(this.#data, { wanted, version, problem: null });
			await this.#goOver(wanted);
		} catch (error) {
			this.#log.error('upgrade.failed', { wanted, error });
			noteProblem(this.#data, error instanceof Error ? error.message : String(error));
			await this.#tell();
		} finally {
			this.#running = false;
		}
	}

	/** Does not return when it goes well: another supervisor takes this one's place. */
	async #goOver(wanted: string): Promise<void> {
		const downloads = join(placeOf(this.#data), '.downloads');
		mkdirSync(downloads, { recursive: true, mode: 0o700 });
		const file = join(downloads, `${wanted.slice(-PACKAGE_ID_DIGITS)}.tgz`);
		writeFileSync(file, await this.#fetch(wanted), { mode: 0o600 });
		try {
			await upgrade(this.#data, file);
		} finally {
			rmSync(file, { force: true });
		}
	}

	async #fetch(wanted: string): Promise<Buffer> {
		const identity = this.#identity();
		const key = readFileSync(join(identityDirectory(this.#data), 'key.pem'), 'utf8');
		const publicKey = createPublicKey(key).export({ type: 'spki', format: 'pem' }).toString();
		const said = { server: identity.server, digest: wanted as `sha256:${string}`, at: systemClock.now() };
		const json = { ...said, publicKey, proof: prove(packageText(identity.installation, said), key) };
		const response = await open(controlOf(this.#data, identity), { method: 'POST', path: '/api/v1/servers/package', json });
		const parts: Buffer[] = [];
		for await (const part of response) parts.push(part as Buffer);
		const bytes = Buffer.concat(parts);
		if (sha256(bytes) === wanted) return bytes;
		throw new Failure('package_damaged', EXIT.jibe, `control sent ${bytes.length} bytes that are not the package ${wanted}`);
	}
}

/** In a session of its own, so that it outlives this supervisor. @throws Failure with what it said, when it comes back */
function upgrade(data: string, file: string): Promise<void> {
	const log = join(data, 'logs', 'upgrade.log');
	const output = openSync(log, 'w', 0o600);
	const command = join(ownPackage().root, 'bin', 'jibe');
	return new Promise((resolve, reject) => {
		const child = spawn(command, ['upgrade', file, '--data', data], { detached: true, stdio: ['ignore', output, output] });
		closeSync(output);
		child.once('error', reject);
		child.once('exit', (code) => {
			if (code === 0) return resolve();
			const said = readFileSync(log, 'utf8').trim();
			reject(new Failure('upgrade_failed', EXIT.jibe, said.slice(-MAX_PROBLEM_CHARS), { hint: `all of it is in ${log}` }));
		});
	});
}
