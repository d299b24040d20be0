import { mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { createLog } from '#log/log.ts';
import { buildIsolation } from '#process/build-isolation.ts';
import { openSandboxes } from './open.ts';
import type { Mount, Sandbox, SandboxCommand, SandboxKind, SandboxOptions, SandboxResult, Sandboxes } from './sandbox.ts';

/** What tests and benches of sandboxes share: sandboxes below a directory that goes with the test, and commands whose output is kept. */
export interface Testbed {
	directory: string;
	sandboxes: Sandboxes;
	/** One with the files as its source. */
	sandbox: (files?: Record<string, string>, of?: Omit<SandboxOptions, 'source'>) => Promise<Sandbox>;
	/** A directory with files. */
	files: (files: Record<string, string>) => string;
	close: () => Promise<void>;
}

export const NODE = '/opt/node/bin/node';
/** The Node that runs the tests, wherever it lies. */
export const NODE_MOUNT: Mount = { from: realpathSync(process.execPath), to: NODE };
const TEST_TIMEOUT_MS = 60_000;

/** Why tests can't run here; false where they can. */
export function whyNot(kind?: SandboxKind): string | false {
	const { kinds, hint } = buildIsolation();
	if (kind === 'none') return false;
	if (kind === undefined ? kinds.length > 0 : kinds.includes(kind)) return false;
	return `needs a sandbox of builds: ${kinds.length > 0 ? `there is no ${kind} here` : hint}`;
}

export async function openTestbed(kind?: SandboxKind): Promise<Testbed> {
	const directory = mkdtempSync(join(tmpdir(), 'jibe-sandbox-'));
	const quiet = createLog({}, { write: () => {} });
	const sandboxes = await openSandboxes({
		directory: join(directory, 'work'),
		toolchains: [NODE_MOUNT],
		path: [dirname(NODE)],
		log: quiet,
		...(kind === undefined ? {} : { kind }),
	});
	const close = async () => {
		await sandboxes.close();
		rmSync(directory, { recursive: true, force: true });
	};
	let count = 0;
	const files = (contents: Record<string, string>) => {
		const root = join(directory, `files${count++}`);
		mkdirSync(root, { mode: 0o755 });
		for (const [path, text] of Object.entries(contents)) {
			mkdirSync(dirname(join(root, path)), { recursive: true });
			writeFileSync(join(root, path), text);
		}
		return root;
	};
	const sandbox: Testbed['sandbox'] = (contents = {}, of = {}) => sandboxes.create({ source: files(contents), ...of });
	return { directory, sandboxes, files, sandbox, close };
}

export type Told = SandboxResult & { out: string; err: string };

/** Runs one command and keeps what it printed. */
export async function tell(sandbox: Sandbox, command: string | readonly string[], of: Partial<SandboxCommand> = {}): Promise<Told> {
	const printed = { out: '', err: '' };
	const onOutput = (stream: 'out' | 'err', bytes: Buffer) => void (printed[stream] += bytes.toString('latin1'));
	const result = await sandbox.run({ command, timeoutMs: TEST_TIMEOUT_MS, onOutput, ...of });
	return { ...result, ...printed };
}
