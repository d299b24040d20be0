import { enableCompileCache } from 'node:module';
import { homedir } from 'node:os';

/**
 * The first file that Node reads: it imports nothing of ours, so that the compile cache is on, and a Node that is
 * too old is told so, before any other file is parsed.
 */
const LEAST_NODE = [24, 21] as const;

const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
if (major < LEAST_NODE[0] || (major === LEAST_NODE[0] && minor < LEAST_NODE[1])) {
	process.stderr.write(
		`jibe: Node ${process.versions.node} at ${process.execPath} is too old; ${LEAST_NODE.join('.')} or newer is needed.\n`,
	);
	process.exit(4);
}
// Only ever below the user's own directories: whoever can write compiled code can run code.
const cache = process.env['XDG_CACHE_HOME'] ?? (process.env['HOME'] ? `${homedir()}/.cache` : undefined);
// What is uninstalled leaves no cache behind.
if (cache !== undefined && process.argv[2] !== 'uninstall') enableCompileCache(`${cache}/jibe/v8`);

// Whoever reads the output may have had enough of it, as `head` has.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
	if (error.code !== 'EPIPE') throw error;
	process.exit(0);
});

const { run } = await import('./run.ts');
process.exit(await run(process.argv.slice(2)));
