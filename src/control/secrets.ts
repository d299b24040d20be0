import type { State } from '#state/state.ts';
import type { Log } from '#log/log.ts';
import { MAX_SECRETS, type OpenedSecret } from '#wire/secrets.ts';
import { open, rewrap, seal, type Belongs } from './envelope.ts';
import { MasterKeyError, newMasterKey, textOfKeys, type MasterKey, type MasterKeySource } from './master-key.ts';
import { Refusal } from './ports.ts';

/** Secrets of apps: sealed when they are set, opened only for a server that runs a release which pins them. */

const REWRAP_BATCH = 200;
/** Rewrapped while somebody still seals under the former key: such rounds end at once. */
const REWRAP_ROUNDS = 10_000;
const LISTED_NAMES = 10;
const MAX_TRIED = 20;

export interface SecretsOptions {
	state: State;
	/** Absent: this control keeps no secrets. */
	masterKey: MasterKeySource | undefined;
	log: Log;
}

export type Place = Pick<Belongs, 'app' | 'environment'>;

interface Keys {
	current: MasterKey;
	all: ReadonlyMap<string, MasterKey>;
}

export class SecretKeeper {
	private readonly of: SecretsOptions;

	constructor(options: SecretsOptions) {
		this.of = options;
	}

	/** Answers the new version. @throws Refusal */
	async set({ value, by, revokesOlder, ...of }: Belongs & { value: string; by: string; revokesOlder: boolean }): Promise<number> {
		const known = await this.of.state.secrets.list(of);
		if (new Set([...known.map(({ name }) => name), of.name]).size > MAX_SECRETS)
			throw new Refusal('too_many_secrets', 422, `an environment may have ${MAX_SECRETS} secrets`, '`jibe secret rm` removes one');
		const { current } = await this.keys(true);
		return this.of.state.secrets.set({ ...of, by, revokesOlder, ...seal(value, of, current) });
	}

	/** The newest version of each, for a new release. @throws Refusal secret_missing, master_key_lost */
	async pins(of: Place, names: readonly string[]): Promise<Record<string, number>> {
		if (names.length === 0) return {};
		const current = await this.current(of);
		const missing = names.filter((name) => !current.has(name));
		if (missing.length > 0) {
			const where = of.environment === 'production' ? '' : ` --env ${of.environment}`;
			throw new Refusal(
				'secret_missing',
				422,
				`jibe.json of ${of.app} lists the secret${missing.length === 1 ? '' : 's'} ${missing.join(', ')}, and ${of.environment} has no such`,
				`jibe secret set ${missing[0]} --app ${of.app}${where}   (the value comes from standard input)`,
				{ missing },
			);
		}
		await this.keys(false);
		return Object.fromEntries(names.map((name) => [name, current.get(name)!]));
	}

	/** What a release that pins these gets: a version that was revoked gives way to the newest. @throws Refusal */
	async opened(of: Place, pins: Readonly<Record<string, number>>): Promise<OpenedSecret[]> {
		const { all } = await this.keys(false);
		const current = await this.current(of);
		return Promise.all(
			Object.entries(pins).map(async ([name, pinned]) => {
				const { secrets } = this.of.state;
				let version = pinned;
				let sealed = await secrets.sealed({ ...of, name, version });
				if (!sealed) {
					version = current.get(name) ?? 0;
					sealed = await secrets.sealed({ ...of, name, version });
				}
				if (!sealed) throw goneRefusal(of, [name]);
				const key = all.get(sealed.keyId);
				if (!key) throw await this.lost([...all.keys()]);
				return { name, version, value: open(sealed, { ...of, name }, key) };
			}),
		);
	}

	/** Of a release's pins, those that are not to be used any more. @throws Refusal where nothing stands in for one */
	async revoked(of: Place, pins: Readonly<Record<string, number>>): Promise<string[]> {
		if (Object.keys(pins).length === 0) return [];
		const rows = await this.of.state.secrets.list(of);
		const good = new Set(rows.filter(({ revokedAt }) => revokedAt === null).map(({ name, version }) => `${name} ${version}`));
		const stale = Object.entries(pins).filter(([name, version]) => !good.has(`${name} ${version}`)).map(([name]) => name); // prettier-ignore
		const gone = stale.filter((name) => !rows.some((row) => row.name === name && row.revokedAt === null));
		if (gone.length > 0) throw goneRefusal(of, gone);
		return stale;
	}

	/** Every value's key under a new master key, while everything goes on. @throws Refusal */
	async rotate(by: string): Promise<{ keyId: string; rewrapped: number }> {
		const source = this.source();
		const known = await this.keys(true);
		const read = await this.read();
		const waiting = await this.of.state.secrets.wrappedByOthers(known.current.id, 1);
		let [target] = read;
		if (target?.id === known.current.id && waiting.length === 0) target = await this.fresh(source, read);
		const taken = await this.of.state.secrets.useMasterKey({ id: target!.id, instead: known.current.id, lost: false, by });
		if (taken === null) throw new Refusal('rotated_meanwhile', 409, 'another control rotated the master key meanwhile', 'look again');
		const rewrapped = await this.rewrapAll(target!, new Map([...known.all, [target!.id, target!]]));
		await source.write?.([target!]);
		this.of.log.info('master_key.rotated', { keyId: target!.id, rewrapped });
		return { keyId: target!.id, rewrapped };
	}

	/** The master key is lost: begins with another one, and gives up what the lost one sealed. Answers what. */
	async giveUp(by: string): Promise<{ keyId: string; lost: Belongs[] }> {
		const source = this.source();
		const instead = await this.of.state.secrets.masterKey();
		const read = await this.read();
		if (read.some(({ id }) => id === instead) || instead === null)
			throw new Refusal('master_key_here', 409, 'the master key is not lost: it is here, and opens what is sealed');
		const target = read[0] ?? (await source.make?.());
		if (!target)
			throw new Refusal('no_new_key', 409, `there is no key in ${source.where}`, 'put a new one there first: openssl rand -base64 32');
		const lost = (await this.of.state.secrets.useMasterKey({ id: target.id, instead, lost: true, by })) ?? [];
		this.of.log.warn('master_key.given_up', { keyId: target.id, lost: lost.length });
		return { keyId: target.id, lost };
	}

	/** null: nothing was sealed yet. Opens one of each app's environment, newest first, to see. @throws Refusal where it can't */
	async tried(): Promise<{ where: string; opened: number } | null> {
		const { secrets } = this.of.state;
		if ((await secrets.masterKey()) === null) return null;
		await this.keys(false);
		const rows = (await secrets.list(null)).filter(({ revokedAt }) => revokedAt === null);
		const newest = new Map(rows.toReversed().map((row) => [`${row.app} ${row.environment} ${row.name}`, row]));
		const tried = [...newest.values()].slice(0, MAX_TRIED);
		for (const { app, environment, name, version } of tried) {
			try {
				await this.opened({ app, environment }, { [name]: version });
			} catch (error) {
				if (error instanceof Refusal) throw error;
				const hint = `jibe secret set ${name} --app ${app} --env ${environment}`;
				throw new Refusal('secret_damaged', 503, `${name} of ${app} (${environment}) does not open: its row was changed`, hint);
			}
		}
		return { where: this.source().where, opened: tried.length };
	}

	/** What a sealed backup carries; null where the master key is not in Jibe's keeping. */
	async forBackup(): Promise<string | null> {
		const { masterKey } = this.of;
		const keys = masterKey?.write ? await masterKey.read() : [];
		return keys.length === 0 ? null : textOfKeys(keys);
	}

	private async rewrapAll(target: MasterKey, all: ReadonlyMap<string, MasterKey>): Promise<number> {
		const { secrets } = this.of.state;
		let done = 0;
		for (let round = 0; round < REWRAP_ROUNDS; round++) {
			const rows = await secrets.wrappedByOthers(target.id, REWRAP_BATCH);
			if (rows.length === 0) return done;
			for (const row of rows) {
				const from = all.get(row.keyId);
				if (!from) throw await this.lost([...all.keys()]);
				await secrets.rewrap({ of: row, ...rewrap(row, row, from, target) });
				done++;
			}
		}
		throw new Refusal('rotation_endless', 503, 'secrets are set faster than their keys are rewrapped', 'run "jibe secret rotate" again');
	}

	/** A new key in the file, before it seals anything. @throws Refusal */
	private async fresh(source: MasterKeySource, held: readonly MasterKey[]): Promise<MasterKey> {
		if (!source.write) {
			throw new Refusal(
				'no_new_key',
				409,
				`the first key of ${source.where} is the one in use`,
				'put a new one before it (NEW,OLD; "openssl rand -base64 32" makes one), restart control, and rotate again; then take the old one out',
			);
		}
		const replicas = await this.of.state.replicas.list();
		if (replicas.length > 1) {
			throw new Refusal(
				'other_controls',
				409,
				`${replicas.length} controls share this database, and each has a master key file of its own`,
				'give all of them the same JIBE_MASTER_KEY (NEW,OLD), restart them, and rotate again',
			);
		}
		const key = newMasterKey();
		await source.write([key, ...held]);
		return key;
	}

	private async current(of: Place): Promise<Map<string, number>> {
		const rows = await this.of.state.secrets.list(of);
		// Newest last: it stays.
		return new Map(rows.toReversed().filter(({ revokedAt }) => revokedAt === null).map(({ name, version }) => [name, version])); // prettier-ignore
	}

	/** The one that the database's secrets are sealed under, and those that may still open some. @throws Refusal */
	private async keys(mayMake: boolean): Promise<Keys> {
		const { secrets } = this.of.state;
		let read = await this.read();
		let id = await secrets.masterKey();
		if (id === null && mayMake) {
			const source = this.source();
			const mine = read[0] ?? (await source.make?.());
			if (!mine) throw new Refusal('no_master_key', 503, `there is no key in ${source.where}`, 'openssl rand -base64 32 makes one');
			await secrets.useMasterKey({ id: mine.id, instead: null, lost: false, by: 'jibe' });
			id = await secrets.masterKey();
			read = await this.read();
		}
		const current = read.find((key) => key.id === id);
		if (!current) throw await this.lost(read.map((key) => key.id));
		return { current, all: new Map(read.map((key) => [key.id, key])) };
	}

	private async read(): Promise<MasterKey[]> {
		try {
			return await this.source().read();
		} catch (error) {
			if (error instanceof MasterKeyError) throw new Refusal(error.code, 503, error.message);
			throw error;
		}
	}

	private source(): MasterKeySource {
		if (this.of.masterKey) return this.of.masterKey;
		throw new Refusal('no_master_key', 503, 'this control was started without a place for a master key');
	}

	/** What can't be read, and what to do: the two things that somebody needs who stands before it. */
	private async lost(held: readonly string[]): Promise<Refusal> {
		const { secrets } = this.of.state;
		const [id, rows] = await Promise.all([secrets.masterKey(), secrets.list(null)]);
		const names = [
			...new Set(rows.filter(({ revokedAt }) => revokedAt === null).map((row) => `${row.name} of ${row.app} (${row.environment})`)),
		];
		const more = names.length > LISTED_NAMES ? ` and ${names.length - LISTED_NAMES} more` : '';
		const here = held.length === 0 ? 'there is none' : `there is only ${held.join(', ')}`;
		return new Refusal(
			'master_key_lost',
			503,
			`the secrets of this installation are sealed under the master key ${id}, and in ${this.source().where} ${here}. Not to be read without it: ` +
				`${names.slice(0, LISTED_NAMES).join(', ')}${more}. What runs goes on, and servers keep what they have; deploys of these apps are refused`,
			'put the key back: from another control of this database, or from a backup that was sealed with a passphrase. ' +
				'If it is lost for good, "jibe secret rotate --lost-key" begins anew, and each of them has to be set again',
			{ keyId: id, held, names },
		);
	}
}

function goneRefusal({ app, environment }: Place, names: readonly string[]): Refusal {
	return new Refusal(
		'secret_gone',
		409,
		`the release needs ${names.join(', ')} of ${app} (${environment}), which ${names.length === 1 ? 'was' : 'were'} removed or revoked, with nothing in the place of it`,
		`jibe secret set ${names[0]} --app ${app} --env ${environment}`,
		{ names },
	);
}
