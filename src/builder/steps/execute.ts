import { existsSync, lstatSync, mkdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { sha256 } from '#digest/digest.ts';
import type { Input } from '#build/steps/key.ts';
import type { PlannedStep } from '#wire/steps.ts';
import { BuildFault } from '../fault.ts';
import type { Ground } from '../ground.ts';
import type { OutputFile, Sandbox, SandboxResult, Sandboxes } from '../sandbox/sandbox.ts';
import { pack, type Made } from './archive.ts';
import type { Printed } from './printed.ts';
import { linkTo, matcher, type SourceFiles } from './source.ts';
import { stage } from './stage.ts';
import { strip } from './strip.ts';

/** One step in a sandbox of its own: its files in, its command, what it made out. */
export interface Execution {
	ground: Ground;
	sandboxes: Sandboxes;
	source: SourceFiles;
	inputs: readonly Input[];
	/** What steps before it made: in these directories, and which files. */
	before: readonly { directory: string; files: readonly OutputFile[] }[];
	printed: Printed;
	signal: AbortSignal;
	/** Of this step alone. */
	directory: string;
}

export interface Executed {
	result: SandboxResult;
	made: Made;
	strippedBytes: number;
}

/** As much as an artifact may have. */
const MAX_MADE_BYTES = 2 ** 31 - 1;

const NOTHING: Made = { files: [], digest: null, bytes: 0, packed: null };

export async function execute(step: PlannedStep, of: Execution): Promise<Executed> {
	const { ground, source, inputs, printed, signal } = of;
	const files = source.isAll(inputs) ? ground.checkout : stage(ground.checkout, inputs, join(of.directory, 'inputs'));
	const sandbox = await of.sandboxes.create({
		source: files,
		layers: [...ground.layers, ...of.before.map(({ directory }) => directory), ...outputFolders(step, of)],
		readOnly: ground.mounts,
		writable: ground.caches,
		secrets: Object.fromEntries(step.secrets.map((name) => [name, ground.job.secrets[name] ?? ''])),
	});
	const stop = () => sandbox.kill();
	signal.addEventListener('abort', stop);
	try {
		signal.throwIfAborted();
		const result = await sandbox.run({
			command: ['/bin/sh', '-ec', script(step, ground)],
			cwd: join(sandbox.paths.source, ground.directory),
			env: environment(step, ground),
			...(step.network ? { network: await ground.reach() } : {}),
			timeoutMs: step.timeoutMs,
			onOutput: (stream, bytes) => printed.add(stream, bytes),
		});
		printed.end();
		signal.throwIfAborted();
		if (result.exitCode !== 0) return { result, made: NOTHING, strippedBytes: 0 };
		return { result, ...(await collect(step, sandbox, of)) };
	} finally {
		signal.removeEventListener('abort', stop);
		await sandbox.destroy();
	}
}

/** The folders that what it makes is to lie in are there before it begins: commands rarely make them. */
function outputFolders({ outputs }: PlannedStep, { ground, directory }: Execution): string[] {
	const folders = (outputs ?? []).flatMap((glob) => {
		if (glob.startsWith('!')) return [];
		const parts = glob.split('/').slice(0, -1);
		const wild = parts.findIndex((part) => /[*?[\\]/.test(part));
		return [(wild < 0 ? parts : parts.slice(0, wild)).join('/')];
	});
	const wanted = folders.filter((folder) => folder !== '' && folder !== '.');
	const layer = join(directory, 'folders');
	for (const folder of wanted) mkdirSync(join(layer, ground.directory, folder), { recursive: true });
	return wanted.length === 0 ? [] : [layer];
}

/** The app's own tools come first, then those of its dependencies, then the machine's. */
function script({ run }: PlannedStep, { path }: Ground): string {
	const first = path.map((one) => `'${one.replaceAll("'", `'\\''`)}':`).join('');
	return `PATH="$PWD/node_modules/.bin:"${first}"$PATH"\nexport PATH\n${run}\n`;
}

function environment(step: PlannedStep, { env, commitTimeS }: Ground): Record<string, string> {
	return { ...env, ...step.env, ...(step.commitTime ? { SOURCE_DATE_EPOCH: String(commitTimeS) } : {}) };
}

async function collect(step: PlannedStep, sandbox: Sandbox, of: Execution): Promise<Omit<Executed, 'result'>> {
	if (step.outputs?.length === 0) return { made: NOTHING, strippedBytes: 0 };
	const list = () => outputsOf(step, sandbox, of);
	const { savedBytes, problem } = step.strip ? await strip(sandbox, list) : { savedBytes: 0, problem: null };
	if (problem !== null) of.printed.say(`nothing was stripped: ${problem}`);
	const found = await list();
	const bytes = found.reduce((sum, file) => sum + file.bytes, 0);
	if (bytes > MAX_MADE_BYTES) {
		const limit = `a step may make ${MAX_MADE_BYTES / 2 ** 30} GiB`;
		throw new BuildFault('too_large', `it made ${(bytes / 2 ** 30).toFixed(1)} GiB: ${limit}`, 'name fewer files in "outputs"');
	}
	if (found.length === 0 && step.outputs !== null) of.printed.say(`it made nothing that matches ${step.outputs.join(', ')}`);
	return { made: await pack(found, join(of.directory, 'made')), strippedBytes: savedBytes };
}

/** Where whatever it wrote counts, these do not: they are kept elsewhere, or differ from run to run. */
const NEVER_MADE = /(^|\/)(node_modules|\.git|__pycache__|\.pytest_cache)(\/|$)/;

async function outputsOf(step: PlannedStep, sandbox: Sandbox, of: Execution): Promise<OutputFile[]> {
	const { directory } = of.ground;
	const below = directory === '' ? '' : `${directory}/`;
	if (step.outputs !== null) {
		const wanted = step.outputs.filter((glob) => !glob.startsWith('!')).map((glob) => below + glob.replace(/^(\.?\/)+/, ''));
		const matches = matcher(step.outputs);
		return (await sandbox.outputs(wanted)).filter(({ path }) => matches(path.slice(below.length)));
	}
	const known = new Map(of.inputs.map(({ path, is }) => [path, is]));
	for (const { files } of of.before) for (const file of files) known.set(file.path, contentOf(file));
	const all = await sandbox.outputs([`${below}**`]);
	return all.filter((file) => !NEVER_MADE.test(file.path) && known.get(file.path) !== contentOf(file) && !isInstalled(file, of));
}

/** As the lists of inputs say it. */
function contentOf({ at, target, executable }: OutputFile): string {
	return target === null ? `${sha256(readFileSync(at))}${executable ? ' x' : ''}` : linkTo(target);
}

function isInstalled({ path, at, target }: OutputFile, { ground }: Execution): boolean {
	return ground.layers.some((layer) => {
		const there = join(layer, path);
		if (!existsSync(there)) return false;
		if (target !== null) return lstatSync(there).isSymbolicLink();
		return statSync(there).size === statSync(at).size && readFileSync(there).equals(readFileSync(at));
	});
}
