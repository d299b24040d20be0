import { closeSync, openSync, readSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { OutputFile, Sandbox } from '../sandbox/sandbox.ts';

/** Takes symbols and debugging information out of programs, where they lie. Answers how many bytes that saved, or why not. */
export async function strip(sandbox: Sandbox, list: () => Promise<OutputFile[]>): Promise<{ savedBytes: number; problem: string | null }> {
	const programs = (await list()).filter((file) => file.target === null && isElf(file.at));
	if (programs.length === 0) return { savedBytes: 0, problem: null };
	const before = programs.reduce((sum, { bytes }) => sum + bytes, 0);
	const paths = programs.map(({ path }) => join(sandbox.paths.source, path));
	let said = '';
	const { exitCode, reason } = await sandbox.run({
		command: ['strip', '--strip-unneeded', '--enable-deterministic-archives', '--', ...paths],
		timeoutMs: STRIP_LIMIT_MS,
		onOutput: (_, bytes) => (said = (said + bytes.toString()).slice(-MAX_SAID_CHARS)),
	});
	if (exitCode !== 0) return { savedBytes: 0, problem: `strip ended with ${reason ?? exitCode}: ${said.trim()}` };
	const now = new Map((await list()).map((file) => [file.path, file]));
	const after = programs.reduce((sum, { path }) => sum + statSync(now.get(path)?.at ?? '', { throwIfNoEntry: false })!.size, 0);
	return { savedBytes: Math.max(0, before - after), problem: null };
}

const STRIP_LIMIT_MS = 60_000;
const MAX_SAID_CHARS = 2_000;
const ELF = Buffer.from([0x7f, 0x45, 0x4c, 0x46]);

function isElf(file: string): boolean {
	const head = Buffer.alloc(ELF.length);
	const descriptor = openSync(file, 'r');
	try {
		return readSync(descriptor, head) === ELF.length && head.equals(ELF);
	} finally {
		closeSync(descriptor);
	}
}
