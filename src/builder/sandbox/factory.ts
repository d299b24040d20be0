import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { systemClock, type Timer } from '#clock/clock.ts';
import type { Log } from '#log/log.ts';
import { createCgroup, limitCgroup, type Cgroup } from '#process/cgroup.ts';
import { Holder } from './holder.ts';
import { Isolated } from './isolated.ts';
import { Launcher } from './launcher.ts';
import { endGroup, removeNest, type Nest } from './leftovers.ts';
import { DEFAULT_LIMITS, type Mount, type Sandbox, type Sandboxes, type SandboxKind, type SandboxOptions } from './sandbox.ts';
import { fillTree, prepareTree, removeTree, type Tree } from './tree.ts';
import { copyTree, prepareCopy } from './unsandboxed.ts';

export interface FactorySettings {
	kind: SandboxKind;
	/** Sources are copied: this disk can't be the writable side of an overlay. */
	copies: boolean;
	nest: Nest;
	missing: readonly string[];
	toolchains?: readonly Mount[];
	path?: readonly string[];
	log: Log;
}

/** All of a sandbox but what one build brings. */
export interface Prepared {
	id: string;
	tree: Tree;
	holder: Holder | null;
	group: Cgroup | null;
	/** For its first command. */
	launcher: Launcher | null;
}

/** The next one is prepared in the pause after one was taken, so that a build does not wait for it. */
const REFILL_DELAY_MS = 100;

export class Factory implements Sandboxes {
	readonly kind: SandboxKind;
	readonly missing: readonly string[];
	private readonly settings: FactorySettings;
	private readonly living = new Set<Isolated>();
	private spare: Promise<Prepared> | null = null;
	private refill: Timer | null = null;
	private closed = false;

	constructor(settings: FactorySettings) {
		this.settings = settings;
		this.kind = settings.kind;
		this.missing = settings.missing;
	}

	async create(of: SandboxOptions): Promise<Sandbox> {
		const prepared = await this.take();
		const { toolchains = [], path = [], log } = this.settings;
		const limits = { ...DEFAULT_LIMITS, ...of.limits };
		try {
			if (prepared.group) limitCgroup(prepared.group, limits);
			const { tree, holder } = prepared;
			const whole = { ...of, readOnly: [...toolchains, ...(of.readOnly ?? [])] };
			const filled = holder === null ? copyTree(tree, of) : await fillTree(tree, holder, whole, this.settings.copies);
			const sandbox = new Isolated({
				...prepared,
				tree: filled,
				kind: this.kind,
				limits,
				path,
				log,
				remove: () => this.remove(sandbox, prepared),
			});
			this.living.add(sandbox);
			return sandbox;
		} catch (error) {
			await this.discard(prepared);
			throw error;
		}
	}

	async close(): Promise<void> {
		this.closed = true;
		this.refill?.cancel();
		const spare = this.spare;
		this.spare = null;
		await Promise.all([...this.living].map((sandbox) => sandbox.destroy()));
		// One that failed has cleared up and was told to whoever asked for it.
		if (spare) await spare.then((prepared) => this.discard(prepared), () => {}); // prettier-ignore
		await removeNest(this.settings.nest);
	}

	private take(): Promise<Prepared> {
		const prepared = this.spare ?? this.prepare();
		this.spare = null;
		this.refill?.cancel();
		this.refill = systemClock.after(REFILL_DELAY_MS, () => this.fill(), { idle: true });
		return prepared;
	}

	private fill(): void {
		if (this.closed || this.spare) return;
		this.spare = this.prepare();
		this.spare.catch((error: unknown) => {
			this.settings.log.warn('sandbox.not_prepared', { error });
			this.spare = null;
		});
	}

	private async prepare(): Promise<Prepared> {
		const { nest, kind } = this.settings;
		const id = randomBytes(6).toString('hex');
		const directory = join(nest.directory, id);
		const name = nest.groupName(id);
		const prepared: Prepared = { id, tree: { directory, places: [] }, holder: null, group: null, launcher: null };
		try {
			prepared.group = name === null ? null : createCgroup(name, {});
			if (kind === 'none') prepared.tree = prepareCopy(directory);
			else {
				prepared.holder = await Holder.open(prepared.group);
				prepared.tree = await prepareTree(directory, prepared.holder);
			}
			prepared.launcher = new Launcher(directory, prepared.holder, prepared.group);
			return prepared;
		} catch (error) {
			await this.discard(prepared);
			throw error;
		}
	}

	private async remove(sandbox: Isolated, prepared: Prepared): Promise<void> {
		await this.discard(prepared);
		this.living.delete(sandbox);
	}

	private async discard({ id, tree, holder, launcher }: Prepared): Promise<void> {
		await launcher?.close();
		await endGroup(this.settings.nest, id);
		await holder?.close();
		await removeTree(tree.directory);
	}
}
