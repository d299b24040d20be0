import { pause, systemClock, type Timer } from '#clock/clock.ts';
import { cgroupOomKills, cgroupPids, cgroupPidsRefused, killCgroup, type Cgroup } from '#process/cgroup.ts';
import { identify } from '#process/identity.ts';
import type { DiskWatch } from './disk.ts';
import { groupsOf, type Ground, type Start } from './launch.ts';
import type { Ended, Launcher } from './launcher.ts';
import { SandboxError, type SandboxCommand, type SandboxReason, type SandboxResult } from './sandbox.ts';

/** One command from its start to the end of its output, within its limits. */

const LOOK_MS = 250;
const EMPTY_MS = 10_000;
const DRAIN_MS = 10_000;
const EMPTY_LOOK_MS = 2;
const SIGNAL_EXIT = 128;
const SIGXFSZ = 25;
/** Of what it complained about, for an error's message. */
const COMPLAINT_BYTES = 2_000;

export class Running {
	/** Never rejected but by SandboxError. */
	readonly result: Promise<SandboxResult>;
	private readonly ground: Watched;
	private readonly start: Start;
	private readonly of: SandboxCommand;
	private readonly disk: DiskWatch;
	private readonly launcher: Launcher;
	private readonly before: Counted;
	private readonly startedAt = systemClock.monotonic();
	private timers: Timer[] = [];
	private reason: SandboxReason | null = null;
	private killed = false;
	private outputBytes = 0;
	private lastErr = '';

	constructor(ground: Watched, start: Start, of: SandboxCommand, disk: DiskWatch, launcher: Launcher) {
		this.ground = ground;
		this.start = start;
		this.of = of;
		this.disk = disk;
		this.launcher = launcher;
		this.before = this.counted();
		launcher.become(start.script);
		this.result = this.follow([this.read('out'), this.read('err')]);
	}

	kill(reason: SandboxReason | null = null): void {
		if (this.killed) return;
		this.killed = true;
		this.reason = reason;
		for (const group of groupsOf(this.ground)) killCgroup(group);
		// Without a group: its processes; whoever left them hangs on the sandbox's first process, which ends with whoever started it.
		this.launcher.kill();
	}

	private async follow(outputs: Promise<void>[]): Promise<SandboxResult> {
		this.timers = [systemClock.after(this.of.timeoutMs, () => this.kill('timeout')), systemClock.every(LOOK_MS, () => void this.look())];
		try {
			const how = await this.launcher.ended;
			await this.empty();
			await this.drain(outputs);
			return await this.conclude(how);
		} finally {
			for (const timer of this.timers) timer.cancel();
		}
	}

	/** What outlives the command is of no use to anybody, keeps its output open, and could change what is taken from the sandbox. */
	private async empty(): Promise<void> {
		for (let waited = 0; waited < EMPTY_MS; waited += EMPTY_LOOK_MS) {
			const first = this.start.firstPid();
			const busy = groupsOf(this.ground).filter((group) => cgroupPids(group).length > 0);
			if (busy.length === 0 && (first === null || identify(first) === null)) return;
			for (const group of busy) killCgroup(group);
			await pause(EMPTY_LOOK_MS);
		}
		throw new SandboxError('sandbox_failed', `Processes of a build could not be ended within ${EMPTY_MS} ms`);
	}

	/** Without a sandbox somebody may have got away with an end of the pipes. */
	private async drain(outputs: Promise<void>[]): Promise<void> {
		const { out, err } = this.launcher.output;
		const enough = systemClock.after(DRAIN_MS, () => [out, err].forEach((socket) => socket.destroy()));
		await Promise.all(outputs).finally(() => enough.cancel());
	}

	/** Limits that the kernel only refuses by: whoever goes on against them would go on until its time is over. */
	private async look(): Promise<void> {
		const { oomKills, refused } = this.counted();
		if (oomKills > this.before.oomKills) this.kill('memory');
		else if (refused > this.before.refused) this.kill('pids');
		else if (await this.disk.isOver()) this.kill('disk');
	}

	private async conclude({ code, signal, error }: Ended): Promise<SandboxResult> {
		if (error) throw new SandboxError('sandbox_failed', 'A shell could not be started', { cause: error });
		const ms = systemClock.monotonic() - this.startedAt;
		const failed = code !== 0;
		if (failed && this.reason === null) this.reason = await this.reasonAfterwards(code);
		if (this.reason !== null || this.killed) return { exitCode: null, signal: 'SIGKILL', reason: this.reason, ms };
		if (failed && !this.start.reached()) throw this.notStarted();
		return { exitCode: code, signal, reason: null, ms };
	}

	/** It was quicker than the next look. */
	private async reasonAfterwards(code: number | null): Promise<SandboxReason | null> {
		const { oomKills, refused } = this.counted();
		if (oomKills > this.before.oomKills) return 'memory';
		if (refused > this.before.refused) return 'pids';
		return code === SIGNAL_EXIT + SIGXFSZ || (await this.disk.isOver()) ? 'disk' : null;
	}

	private notStarted(): SandboxError {
		const said = [this.start.complaint(), this.lastErr.trim()].filter(Boolean).join('; ') || 'it said nothing';
		return new SandboxError('sandbox_failed', `${this.ground.kind} could not start a command: ${said}`);
	}

	private counted(): Counted {
		const groups = groupsOf(this.ground);
		const sum = (count: (group: Cgroup) => number) => groups.reduce((all, group) => all + count(group), 0);
		return { oomKills: sum(cgroupOomKills), refused: sum(cgroupPidsRefused) };
	}

	private read(stream: 'out' | 'err'): Promise<void> {
		const socket = this.launcher.output[stream];
		socket.on('data', (bytes: Buffer) => this.heard(stream, bytes));
		socket.resume();
		return new Promise((resolve, reject) => socket.once('close', resolve).once('error', reject));
	}

	private heard(stream: 'out' | 'err', bytes: Buffer): void {
		const room = this.ground.limits.outputMiB * 2 ** 20 - this.outputBytes;
		this.outputBytes += bytes.length;
		const shown = bytes.subarray(0, Math.max(0, room));
		if (stream === 'err') this.lastErr = (this.lastErr + shown.toString('latin1')).slice(0, COMPLAINT_BYTES);
		if (shown.length > 0) this.of.onOutput?.(stream, shown);
		if (bytes.length > room) this.kill('output');
	}
}

type Watched = Pick<Ground, 'kind' | 'id' | 'group' | 'limits'>;

interface Counted {
	oomKills: number;
	refused: number;
}
