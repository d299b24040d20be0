import { delimiter, join } from 'node:path';
import type { Log } from '#log/log.ts';
import { Running } from './command.ts';
import { DiskWatch } from './disk.ts';
import type { Prepared } from './factory.ts';
import { prepareStart } from './launch.ts';
import { Launcher } from './launcher.ts';
import { listOutputs } from './outputs.ts';
import { Passage } from './passage.ts';
import {
	FIXED_ENV,
	HOME_PATH,
	SandboxError,
	SECRETS_PATH,
	SOURCE_PATH,
	type OutputFile,
	type Reach,
	type Sandbox,
	type SandboxCommand,
	type SandboxKind,
	type SandboxLimits,
	type SandboxResult,
} from './sandbox.ts';

interface Parts extends Prepared {
	kind: SandboxKind;
	limits: SandboxLimits;
	path: readonly string[];
	log: Log;
	remove(): Promise<void>;
}

type Killable = Pick<Running, 'result' | 'kill'>;

const DEFAULT_PATH = ['/usr/local/sbin', '/usr/local/bin', '/usr/sbin', '/usr/bin', '/sbin', '/bin'];

/** One sandbox of any kind. */
export class Isolated implements Sandbox {
	readonly paths: Sandbox['paths'];
	private readonly parts: Parts;
	private readonly disk: DiskWatch;
	private launcher: Launcher | null;
	private running: Killable | null = null;
	private commands = 0;
	private destroyed: Promise<void> | null = null;

	constructor(parts: Parts) {
		const { kind, limits, tree } = parts;
		const here = (name: string) => join(tree.directory, name);
		this.parts = parts;
		this.launcher = parts.launcher;
		this.paths =
			kind === 'none'
				? { source: here('source'), home: here('home'), secrets: here('secrets') }
				: { source: SOURCE_PATH, home: HOME_PATH, secrets: SECRETS_PATH };
		this.disk = new DiskWatch([kind === 'none' ? 'source' : 'upper', 'home', 'tmp'].map(here), limits.diskMiB);
	}

	async run(of: SandboxCommand): Promise<SandboxResult> {
		this.refuseWhen(this.running !== null, 'a command runs in it: those that run beside one another need one each');
		this.running = of.network === undefined || this.parts.holder === null ? this.begin(of, null) : this.beginBehind(of, of.network);
		try {
			return await this.running.result;
		} finally {
			this.running = null;
		}
	}

	private begin(of: SandboxCommand, passage: Passage | null): Running {
		const { tree, kind } = this.parts;
		const count = this.commands++;
		const ground = { ...this.parts, id: `${this.parts.id}-${count}`, directory: join(tree.directory, `run${count}`) };
		const launch = {
			root: join(tree.directory, 'root'),
			places: [...tree.places, ...(passage?.files ?? [])],
			words: typeof of.command === 'string' ? ['/bin/sh', '-c', of.command] : of.command,
			cwd: of.cwd ?? this.paths.source,
			env: { ...this.fixedEnv(), ...of.env },
			network: passage !== null || kind === 'none',
		};
		const start = prepareStart(ground, launch, passage?.enter());
		return new Running(ground, start, of, this.disk, this.takeLauncher());
	}

	/** The way out is made first, and ends with the command. */
	private beginBehind(of: SandboxCommand, reach: Reach): Killable {
		const { holder, tree } = this.parts;
		let killed = false;
		let running: Running | null = null;
		const say = (line: string) => of.onOutput?.('err', Buffer.from(`jibe: ${line}\n`));
		const follow = async (): Promise<SandboxResult> => {
			const passage = await Passage.open(holder!, join(tree.directory, `net${this.commands}`), reach, say);
			try {
				if (killed) return { exitCode: null, signal: 'SIGKILL', reason: null, ms: 0 };
				running = this.begin(of, passage);
				return await running.result;
			} finally {
				await passage.close();
			}
		};
		const kill = () => {
			killed = true;
			running?.kill();
		};
		return { result: follow(), kill };
	}

	async outputs(globs: readonly string[]): Promise<OutputFile[]> {
		this.refuseWhen(this.running !== null, 'a command runs in it: what it makes is known when it has ended');
		const { tree, holder } = this.parts;
		const source = join(tree.directory, 'source');
		return listOutputs(holder === null ? source : holder.inside(source), globs);
	}

	kill(): void {
		this.running?.kill();
	}

	destroy(): Promise<void> {
		this.destroyed ??= this.end();
		return this.destroyed;
	}

	private async end(): Promise<void> {
		if (this.running) {
			this.running.kill();
			// Whoever called `run` is told.
			await this.running.result.catch((error: unknown) => this.parts.log.debug('sandbox.ended', { error }));
		}
		await this.parts.remove();
	}

	/** The first one is ready. */
	private takeLauncher(): Launcher {
		const { tree, holder, group } = this.parts;
		const prepared = this.launcher;
		this.launcher = null;
		return prepared ?? new Launcher(tree.directory, holder, group);
	}

	private fixedEnv(): Record<string, string> {
		const { kind, path, tree } = this.parts;
		if (kind !== 'none') return { ...FIXED_ENV, PATH: [...path, ...DEFAULT_PATH].join(delimiter) };
		// Tools lie where they lie.
		const own = process.env['PATH'] ?? DEFAULT_PATH.join(delimiter);
		return { ...FIXED_ENV, HOME: this.paths.home, TMPDIR: join(tree.directory, 'tmp'), PATH: own };
	}

	private refuseWhen(wrong: boolean, why: string): void {
		if (this.destroyed) throw new SandboxError('sandbox_busy', 'This sandbox was destroyed');
		if (wrong) throw new SandboxError('sandbox_busy', `This sandbox is not free: ${why}`);
	}
}
