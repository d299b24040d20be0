import { createCipheriv, createDecipheriv, createPublicKey, randomBytes } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Log } from '#log/log.ts';
import { prove } from '#wire/join.ts';
import type { ReleaseSpec } from '#wire/region.ts';
import { newExchangeKey, openSecrets, secretsText, type OpenedSecret, type SecretsRequest } from '#wire/secrets.ts';
import type { DepotClient } from './depot-client.ts';
import type { Place } from './layout.ts';
import { scrubber, type Scrub } from '#log/scrub.ts';

/**
 * Secrets of the releases that are placed on this server: asked of control once, then kept on this disk, sealed under a
 * key of this server, so that instances start again without control. They go when the release goes.
 */
export interface Secrets {
	/** @throws FetchError with control's own words, or UnsealFailed */
	of(spec: ReleaseSpec): Promise<Held>;
	/** Without asking anybody. */
	known(spec: ReleaseSpec): Held | null;
	/** Those of this release have to be asked for again: they may be revoked. */
	renew(release: Release): void;
	/** Takes the values of an app's secrets out of what it wrote. */
	scrub(place: Place): Scrub;
	/**
	 * Forgets those of all other releases; keys are `app/release`. `leaving`: the last moment to find them in what it wrote.
	 */
	keep(placed: () => ReadonlySet<string>, leaving: (of: Release, scrub: Scrub) => void): void;
}

type Release = Place & { release: number };

export interface Held {
	/** Name → version, which may be newer than the one that the release pins: that was revoked. */
	versions: Record<string, number>;
	list: readonly OpenedSecret[];
}

export interface SecretsOptions {
	home: string;
	/** Who asks, and how it shows that: read at each use, because papers are renewed. */
	identity: () => { server: string; installation: string; publicKey: string; credential: string; serverKey: string | null };
	depot: Pick<DepotClient, 'secrets'>;
	log: Log;
}

const NONE: Held = { versions: {}, list: [] };
const KEY_BYTES = 32;
const NONCE_BYTES = 12;
const TAG_BYTES = 16;
const FILE_MODE = 0o600;
const DIRECTORY_MODE = 0o700;

export function openSecretStore(of: SecretsOptions): Secrets {
	const { home, log } = of;
	const directory = join(home, 'secrets');
	mkdirSync(directory, { recursive: true, mode: DIRECTORY_MODE });
	/** `former`: what processes that still run may have. */
	const held = new Map<string, { of: Release; secrets: Held | null; former: readonly OpenedSecret[] }>();
	const asking = new Map<string, Promise<Held>>();
	const scrubs = new Map<string, Scrub>();
	for (const name of readdirSync(directory)) restore(name);

	function restore(name: string): void {
		const [app = '', environment = '', release = ''] = name.split('@');
		try {
			const list = JSON.parse(unseal(readKey(home), readFileSync(join(directory, name)), name)) as OpenedSecret[];
			hold({ app, environment, release: Number(release) }, list);
		} catch (error) {
			// Cut short by a power loss, or of another server: asked for again.
			log.warn('secrets.unreadable', { name, error });
			rmSync(join(directory, name), { force: true });
		}
	}

	function hold(release: Release, list: OpenedSecret[]): Held {
		const secrets = { list, versions: Object.fromEntries(list.map(({ name, version }) => [name, version])) };
		held.set(nameOf(release), { of: release, secrets, former: held.get(nameOf(release))?.former ?? [] });
		scrubs.delete(placeOf(release));
		return secrets;
	}

	async function ask(spec: ReleaseSpec): Promise<Held> {
		const { server, installation, publicKey, credential, serverKey } = of.identity();
		const { key, privateKey } = newExchangeKey();
		const about = { server, app: spec.app, environment: spec.environment, release: spec.release, key };
		const text = secretsText(installation, about);
		const question: SecretsRequest = { ...about, signed: serverKey === null ? null : signedBy(serverKey, text), credential: serverKey === null ? credential : null }; // prettier-ignore
		const list = openSecrets(text, privateKey, await of.depot.secrets(question), publicKey);
		write(nameOf(spec), JSON.stringify(list));
		return hold(spec, list);
	}

	function write(name: string, text: string): void {
		const draft = join(home, `secrets.${process.pid}.draft`);
		try {
			writeFileSync(draft, seal(readKey(home), text, name), { mode: FILE_MODE, flush: true });
			renameSync(draft, join(directory, name));
		} catch (error) {
			// A full disk: after a restart of this agent they are asked for again.
			log.error('secrets.not_kept', { name, error });
			rmSync(draft, { force: true });
		}
	}

	function known(spec: ReleaseSpec): Held | null {
		return Object.keys(spec.secrets ?? {}).length === 0 ? NONE : (held.get(nameOf(spec))?.secrets ?? null);
	}

	return {
		known,
		async of(spec) {
			const here = known(spec);
			if (here) return here;
			const name = nameOf(spec);
			let asked = asking.get(name);
			if (!asked) {
				asked = ask(spec).finally(() => asking.delete(name));
				asking.set(name, asked);
			}
			return asked;
		},
		renew(release) {
			const entry = held.get(nameOf(release));
			if (!entry?.secrets) return;
			held.set(nameOf(release), { of: entry.of, secrets: null, former: [...entry.former, ...entry.secrets.list] });
			rmSync(join(directory, nameOf(release)), { force: true });
		},
		scrub(place) {
			const key = placeOf(place);
			const ready = scrubs.get(key);
			if (ready) return ready;
			const theirs = [...held.values()]
				.filter((one) => placeOf(one.of) === key)
				.flatMap(({ secrets, former }) => [...(secrets?.list ?? []), ...former]);
			const scrub = scrubber(theirs);
			// Most apps have none, and need nothing of their own.
			if (theirs.length > 0) scrubs.set(key, scrub);
			return theirs.length > 0 ? scrub : TOKENS_ONLY;
		},
		keep(placed, leaving) {
			if (held.size === 0) return;
			const keys = placed();
			for (const [name, { of: release }] of held) {
				if (keys.has(`${release.app}/${release.release}`)) continue;
				leaving(release, this.scrub(release));
				held.delete(name);
				scrubs.delete(placeOf(release));
				rmSync(join(directory, name), { force: true });
			}
		},
	};
}

const TOKENS_ONLY = scrubber([]);

function nameOf({ app, environment, release }: Release): string {
	return `${app}@${environment}@${release}`;
}

function placeOf({ app, environment }: Place): string {
	return `${app}/${environment}`;
}

function signedBy(serverKey: string, text: string): NonNullable<SecretsRequest['signed']> {
	const publicKey = createPublicKey(serverKey).export({ type: 'spki', format: 'pem' }).toString();
	return { publicKey, proof: prove(text, serverKey) };
}

/** Of this server alone: what lies in `secrets/` is worth nothing elsewhere. */
function readKey(home: string): Buffer {
	const file = join(home, 'secrets.key');
	try {
		return readFileSync(file);
	} catch (error) {
		if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
	}
	const key = randomBytes(KEY_BYTES);
	writeFileSync(file, key, { mode: FILE_MODE, flag: 'wx', flush: true });
	return key;
}

function seal(key: Buffer, text: string, name: string): Buffer {
	const nonce = randomBytes(NONCE_BYTES);
	const cipher = createCipheriv('aes-256-gcm', key, nonce).setAAD(Buffer.from(name));
	const bytes = Buffer.concat([cipher.update(text), cipher.final()]);
	return Buffer.concat([nonce, cipher.getAuthTag(), bytes]);
}

function unseal(key: Buffer, bytes: Buffer, name: string): string {
	const decipher = createDecipheriv('aes-256-gcm', key, bytes.subarray(0, NONCE_BYTES), { authTagLength: TAG_BYTES });
	decipher.setAAD(Buffer.from(name)).setAuthTag(bytes.subarray(NONCE_BYTES, NONCE_BYTES + TAG_BYTES));
	return Buffer.concat([decipher.update(bytes.subarray(NONCE_BYTES + TAG_BYTES)), decipher.final()]).toString();
}
