import { execFile } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { repositoryName } from '#wire/repositories.ts';
import { EXIT, Failure, usage, type Exit } from './failure.ts';
import { done } from './output.ts';
import { loginFile } from './places.ts';
import { projectDirectory, readProject } from './project.ts';
import { ask, findServer, type Server } from './server.ts';
import type { Invocation, Verb } from './verbs.ts';

/** Makes `git push jibe` go to this control: a remote, and whom git asks for the password. No secret is written anywhere. */

const REMOTE = 'jibe';

export const verb: Verb = {
	syntax: { options: {}, positionals: ['NAME'], optional: 0 },
	async run({ args, out, data, environment }: Invocation): Promise<Exit> {
		const directory = projectDirectory(undefined);
		const name = args.positionals[0] ?? (await readProject(directory, environment)).config.app;
		if (!repositoryName.safeParse(name).success) throw usage(`${name} is no name of a repository`, 'jibe repo connect NAME');
		const server = findServer(data);
		await ask(server, { path: '/api/v1/whoami' });
		const { origin } = server.url;
		const remote = `${origin}/git/${name}.git`;
		const own = args.value('data') === null ? '' : ` --data ${quoted(data)}`;
		await config(directory, `remote.${REMOTE}.url`, [remote]);
		await config(directory, `remote.${REMOTE}.fetch`, [`+refs/heads/*:refs/remotes/${REMOTE}/*`]);
		// The empty one first: no other helper is to hear the token, and keep it.
		await config(directory, `credential.${origin}.helper`, ['', `!jibe git-credential${own}`]);
		const ca = keepCa(server);
		if (ca !== null) await config(directory, `http.${origin}/.sslCAInfo`, [ca]);
		out.result({ remote: REMOTE, url: remote, repository: name }, [done(`Connected to ${remote}`), `  git push ${REMOTE} main`]);
		return EXIT.done;
	},
};

/** All values of a key, in the place of those that were there. */
async function config(directory: string, key: string, values: readonly string[]): Promise<void> {
	const git = (...words: string[]) => promisify(execFile)('git', ['config', '--local', ...words], { cwd: directory });
	try {
		for (const [at, value] of values.entries()) await git(...(at === 0 ? ['--replace-all'] : ['--add']), key, value);
	} catch (cause) {
		const said = String((cause as { stderr?: string }).stderr ?? (cause as Error).message).trim();
		throw new Failure('git', EXIT.usage, `git config did not go in ${directory}: ${said}`, { hint: 'git init makes a repository', cause });
	}
}

/** Jibe's own CA, which no other program knows; null: the certificate is a public one, or there is none. */
function keepCa({ trust, url }: Server): string | null {
	if (!trust) return null;
	const file = join(dirname(loginFile()), `ca-${url.host.replace(/[^\w.-]/g, '_')}.pem`);
	mkdirSync(dirname(file), { recursive: true, mode: 0o700 });
	writeFileSync(file, trust.ca);
	return file;
}

/** For the shell that git starts. */
function quoted(text: string): string {
	return `'${text.replaceAll("'", `'\\''`)}'`;
}
