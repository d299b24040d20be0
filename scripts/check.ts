import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';

/** `npm run check`: everything that is held true of the source without running it. All checks run; any failure fails. */

interface Check {
	name: string;
	command: string[];
	/** Says why the check can't run, or null. */
	unless?: () => string | null;
}

const FOLDERS = ['src', 'test', 'bench', 'scripts'];

const CHECKS: Check[] = [
	{ name: 'types', command: ['tsc', '--noEmit', '-p', '.'] },
	{ name: 'types of examples/notes', command: ['tsc', '--noEmit', '-p', 'examples/notes'] },
	{ name: 'lint', command: ['oxlint', '--type-aware', '--deny-warnings', ...FOLDERS, 'examples'] },
	{ name: 'format', command: ['oxfmt', '--check', ...FOLDERS, 'examples', 'dashboard'] },
	{ name: 'dead code', command: ['knip', '--no-progress'] },
	{
		name: 'schema dump',
		command: ['node', 'scripts/schema.ts', '--check'],
		unless: () => (existsSync('scripts/schema.ts') ? null : 'scripts/schema.ts does not exist'),
	},
];

let failed = 0;
for (const check of CHECKS) if (!(await passes(check))) failed++;
console.log(failed === 0 ? `All ${CHECKS.length} checks passed.` : `${failed} of ${CHECKS.length} checks failed.`);
process.exitCode = failed === 0 ? 0 : 1;

async function passes({ name, command, unless }: Check): Promise<boolean> {
	const skipped = unless?.() ?? null;
	if (skipped !== null) {
		console.log(`- ${name}: not run, ${skipped}`);
		return true;
	}
	const { code, output } = await capture(command);
	console.log(code === 0 ? `✓ ${name}` : `✗ ${name} (${command.join(' ')})\n${output}`);
	return code === 0;
}

function capture([file, ...args]: string[]): Promise<{ code: number; output: string }> {
	return new Promise((resolve, reject) => {
		const child = spawn(file!, args, { stdio: ['ignore', 'pipe', 'pipe'] });
		let output = '';
		child.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()));
		child.stderr.on('data', (chunk: Buffer) => (output += chunk.toString()));
		child.once('error', reject);
		child.once('close', (code) => resolve({ code: code ?? 1, output }));
	});
}
