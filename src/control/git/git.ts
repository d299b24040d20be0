import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync } from 'node:fs';
import { constants, setPriority } from 'node:os';
import { createInterface } from 'node:readline';
import { buffer } from 'node:stream/consumers';
import type { Duplex, Readable, Writable } from 'node:stream';
import { systemClock } from '#clock/clock.ts';
import { Refusal } from '../ports.ts';

/** The system's git as control runs it: no configuration but what stands here, no hooks, no questions, nothing of control's environment. */

export const GIT_LIMIT_MS = 120_000;
const MAX_STDERR_BYTES = 16 * 1024;

/** Given as environment, so that no process listing shows it and no file can say otherwise. */
const CONFIG: Record<string, string> = {
	'core.hooksPath': '/dev/null',
	'core.attributesFile': '/dev/null',
	'core.logAllRefUpdates': 'false',
	'core.fsmonitor': 'false',
	'gc.auto': '0',
	'init.defaultBranch': 'main',
	'protocol.allow': 'never',
	'receive.fsckObjects': 'true',
	'safe.directory': '*',
	'tar.umask': '0022',
	'transfer.fsckObjects': 'true',
	'transfer.hideRefs': 'refs/jibe',
	'uploadpack.allowAnySHA1InWant': 'false',
};

export interface GitOptions {
	/** The bare repository. */
	directory: string;
	/** Over the environment that every git here gets. */
	env?: Record<string, string>;
	/** Over the configuration that every git here gets; not to be seen in process listings either. */
	config?: Record<string, string>;
	/** Others go before it. */
	nice?: boolean;
	/** No file that it writes gets larger, whatever is sent to it. */
	maxFileBytes?: number;
	/** What it reads; absent: nothing. */
	input?: string | Uint8Array | Readable;
	/** It is killed after so long (default 2 min). */
	limitMs?: number;
	signal?: AbortSignal;
	/** What a hook of it hears for each line that it writes to descriptor 3. Never rejects. */
	asked?: (line: string) => Promise<string>;
}

export interface GitEnd {
	code: number | null;
	stderr: string;
}

/** git ended otherwise than with 0, and what it said. */
export class GitError extends Error {
	readonly code: number | null;
	readonly said: string;
	constructor(args: readonly string[], { code, stderr }: GitEnd) {
		super(`git ${args[0]} ended with ${code ?? 'a signal'}: ${stderr.trim() || 'it said nothing'}`);
		this.code = code;
		this.said = stderr.trim();
	}
}

/** What it printed. @throws GitError when it ended otherwise than with 0 */
export async function git(args: readonly string[], options: GitOptions): Promise<string> {
	return (await gitBytes(args, options)).toString();
}

export async function gitBytes(args: readonly string[], options: GitOptions): Promise<Buffer> {
	const running = startGit(args, options);
	const [output, end] = await Promise.all([buffer(running.output), running.ended]);
	if (end.code !== 0) throw new GitError(args, end);
	return output;
}

export interface RunningGit {
	output: Readable;
	ended: Promise<GitEnd>;
	kill(): void;
}

/** Begins it; `ended` never rejects but where there is no git. */
export function startGit(args: readonly string[], options: GitOptions): RunningGit {
	const { directory, env, config, input, limitMs = GIT_LIMIT_MS, maxFileBytes, signal, nice = false, asked } = options;
	const words = ['git', `--git-dir=${directory}`, '--no-replace-objects', ...args];
	const limited = maxFileBytes === undefined ? words : ['/bin/sh', '-c', limitFiles(maxFileBytes), ...words];
	const child = spawn(limited[0]!, limited.slice(1), {
		cwd: directory,
		env: { ...BASE_ENV, ...configEnvironment({ ...CONFIG, ...config }), ...env },
		stdio: asked ? ['pipe', 'pipe', 'pipe', 'pipe'] : ['pipe', 'pipe', 'pipe'],
		// It starts programs of its own, which go with it.
		detached: true,
	}) as ChildProcess & { stdin: Writable; stdout: Readable };
	if (asked) answerAll(child.stdio[3] as Duplex, asked);
	if (nice) goLast(child);
	const kill = () => endGroup(child);
	const timer = systemClock.after(limitMs, kill);
	if (signal?.aborted) kill();
	signal?.addEventListener('abort', kill);
	child.once('close', () => {
		timer.cancel();
		signal?.removeEventListener('abort', kill);
	});
	feed(child.stdin, input);
	return { output: child.stdout, ended: endOf(child, directory), kill };
}

function answerAll(pipe: Duplex, asked: (line: string) => Promise<string>): void {
	// Whoever asked may be gone by the time of the answer.
	pipe.on('error', () => {});
	createInterface({ input: pipe }).on('line', (line) => void asked(line).then((answer) => pipe.write(`${answer}\n`)));
}

function goLast({ pid }: ChildProcess): void {
	if (pid === undefined) return;
	try {
		setPriority(pid, constants.priority.PRIORITY_LOW);
	} catch (error) {
		// It has ended already.
		if ((error as { info?: { code?: string } }).info?.code !== 'ESRCH') throw error;
	}
}

/** In the blocks of POSIX's shell; whoever comes to the limit is told instead of ended, and says so. */
function limitFiles(bytes: number): string {
	return `trap '' XFSZ && ulimit -f ${Math.ceil(bytes / 512)} && exec "$0" "$@"`;
}

function endGroup({ pid, exitCode, signalCode }: ChildProcess): void {
	if (pid === undefined || exitCode !== null || signalCode !== null) return;
	try {
		process.kill(-pid, 'SIGKILL');
	} catch (error) {
		if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
	}
}

function feed(stdin: Writable, input: GitOptions['input']): void {
	// It may end before it has read everything: its end says why.
	stdin.on('error', () => {});
	if (input === undefined || typeof input === 'string' || input instanceof Uint8Array) stdin.end(input ?? '');
	else input.on('error', () => stdin.destroy()).pipe(stdin);
}

async function endOf(child: ChildProcess, directory: string): Promise<GitEnd> {
	let stderr = '';
	child.stderr!.setEncoding('utf8').on('data', (words: string) => {
		stderr = (stderr + words).slice(-MAX_STDERR_BYTES);
	});
	return new Promise((resolve, reject) => {
		child.once('error', (error: NodeJS.ErrnoException) => {
			reject(error.code === 'ENOENT' && existsSync(directory) ? noGit() : error);
		});
		child.once('close', (code) => resolve({ code, stderr }));
	});
}

export function noGit(): Refusal {
	return new Refusal('git_missing', 501, 'control has no git', "install git on control's machine; nothing has to be started again");
}

const BASE_ENV: Record<string, string> = {
	PATH: process.env['PATH'] ?? '/usr/bin:/bin',
	LC_ALL: 'C.UTF-8',
	TZ: 'UTC',
	HOME: '/nonexistent',
	GIT_CONFIG_NOSYSTEM: '1',
	GIT_CONFIG_GLOBAL: '/dev/null',
	GIT_TERMINAL_PROMPT: '0',
	GIT_ASKPASS: '/bin/false',
	GIT_OPTIONAL_LOCKS: '0',
};

function configEnvironment(config: Readonly<Record<string, string>>): Record<string, string> {
	const entries = Object.entries(config).flatMap(([key, value], at) => [
		[`GIT_CONFIG_KEY_${at}`, key],
		[`GIT_CONFIG_VALUE_${at}`, value],
	]);
	return { GIT_CONFIG_COUNT: String(Object.keys(config).length), ...Object.fromEntries(entries) };
}
