import assert from 'node:assert/strict';
import { chmodSync, existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test, type TestContext } from 'node:test';
import { Dependencies, type Provided } from './dependencies.ts';
import { BuildFault } from './fault.ts';
import { compilerCaches, findInstalls } from './managers.ts';
import { reachOf } from './reach.ts';
import { openSandboxes } from './sandbox/open.ts';
import type { Sandboxes } from './sandbox/sandbox.ts';
import { tell, whyNot } from './sandbox/testbed.ts';
import { directoryOf, jobOf, lay, silent, type Tree } from './testbed.ts';
import { findToolchains, type Toolchains } from './toolchains.ts';

/**
 * Each package manager for real, where this machine has it and a registry can be reached. npm always; the others, which take a
 * minute, with `JIBE_TEST_INSTALLS=all`. `JIBE_TEST_TOOLS` is a directory where `npm install pnpm` was run.
 */
const SKIP = whyNot();
const UNREACHABLE = /ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|network|getaddrinfo|resolve host|lookup/i;
const notAsked = (manager: string) =>
	manager === 'npm' || process.env['JIBE_TEST_INSTALLS'] === 'all' ? false : 'needs JIBE_TEST_INSTALLS=all';
const TOOLS = process.env['JIBE_TEST_TOOLS'];
let toolchains: Toolchains;
let sandboxes: Sandboxes;
let directory: string;
let close = async () => {};
before(async () => {
	if (SKIP !== false) return;
	toolchains = TOOLS === undefined ? findToolchains() : withTools(findToolchains(), TOOLS);
	const cleanUps: (() => void)[] = [];
	directory = directoryOf({ after: (work: () => void) => cleanUps.push(work) } as unknown as TestContext);
	const { mounts, path } = toolchains;
	sandboxes = await openSandboxes({ directory: join(directory, 'sandboxes'), toolchains: mounts, path, log: silent });
	close = async () => {
		await sandboxes.close();
		cleanUps.forEach((work) => work());
	};
});
after(() => close());

function withTools(own: Toolchains, from: string): Toolchains {
	const bin = join(from, 'node_modules/.bin');
	const find = (tool: string) => (existsSync(join(bin, tool)) ? join(bin, tool) : own.find(tool));
	return { ...own, mounts: [...own.mounts, { from, to: '/opt/tools' }], path: [...own.path, '/opt/tools/node_modules/.bin'], find };
}

/** Where they may be mirrors in a closed network. */
const ELSEWHERE = ['pypi.org:443', 'files.pythonhosted.org:443', 'proxy.golang.org:443', 'index.crates.io:443', 'static.crates.io:443'];
const ODD = '{"name":"x","version":"1.0.0","private":true,"dependencies":{"is-odd":"3.0.1"}}';
const NUMBER_HASH = 'sha512-Wu1VHeILBK8KAWJUAiSZQX94GmOE45Rg6/538fKwiloUu21KncEkYGPqob2oSZ5mUT73vLGrHQjKw3KMPwfDzg==';
const ODD_HASH = 'sha512-CQpnWPrDwmP1+SMHXZhtLtJv90yiyVfluGsX5iNCVkrhQtU3TQHsUWPG9wkdk9Lgd5yNpAg9jQEo90CBaXgWMA==';
const USES_ODD = "node -p 'require(`is-odd`)(3)'";

interface Case {
	manager: string;
	files: Tree;
	/** Run without the network beside what was installed; prints `true`. */
	use: string;
}

const CASES: readonly Case[] = [
	{
		manager: 'npm',
		files: {
			'package.json': ODD,
			'package-lock.json': JSON.stringify({
				name: 'x',
				version: '1.0.0',
				lockfileVersion: 3,
				packages: {
					'': { name: 'x', version: '1.0.0', dependencies: { 'is-odd': '3.0.1' } },
					'node_modules/is-number': { version: '6.0.0', integrity: NUMBER_HASH },
					'node_modules/is-odd': { version: '3.0.1', integrity: ODD_HASH, dependencies: { 'is-number': '^6.0.0' } },
				},
			}),
		},
		use: USES_ODD,
	},
	{
		manager: 'pnpm',
		files: {
			'package.json': ODD,
			'pnpm-lock.yaml': `lockfileVersion: '9.0'
settings: { autoInstallPeers: true, excludeLinksFromLockfile: false }
importers:
  .:
    dependencies: { is-odd: { specifier: 3.0.1, version: 3.0.1 } }
packages:
  is-number@6.0.0: { resolution: { integrity: ${NUMBER_HASH} } }
  is-odd@3.0.1: { resolution: { integrity: ${ODD_HASH} } }
snapshots:
  is-number@6.0.0: {}
  is-odd@3.0.1: { dependencies: { is-number: 6.0.0 } }
`,
		},
		use: USES_ODD,
	},
	{
		manager: 'pip',
		files: { 'requirements.txt': 'iniconfig==2.0.0\n' },
		use: "python3 -c 'import iniconfig; print(`true`)'".replaceAll('`', '"'),
	},
	{
		manager: 'go',
		files: {
			'go.mod': 'module example.com/x\n\ngo 1.20\n\nrequire github.com/google/uuid v1.6.0\n',
			'go.sum': `github.com/google/uuid v1.6.0 h1:NIvaJDMOsjHA8n1jAhLSgzrAzy1Hgr+hNrb57e+94F0=
github.com/google/uuid v1.6.0/go.mod h1:TIyPZe4MgqvfeYDBFedMoGGpEw/LqOeaOT+nhxU+yHo=
`,
			'main.go': 'package main\n\nimport "github.com/google/uuid"\n\nfunc main() { println(len(uuid.NewString()) == 36) }\n',
		},
		// To compile what comes with Go would take a minute.
		use: 'go list -deps . | grep -q google/uuid && echo true',
	},
	{
		manager: 'cargo',
		files: {
			'Cargo.toml': '[package]\nname = "x"\nversion = "0.1.0"\nedition = "2021"\n\n[dependencies]\nitoa = "=1.0.11"\n',
			'Cargo.lock': `version = 3

[[package]]
name = "itoa"
version = "1.0.11"
source = "registry+https://github.com/rust-lang/crates.io-index"
checksum = "49f1f14873335454500d59611f1cf4a4b0f786f9ac11f4312a78e4cf2566695b"

[[package]]
name = "x"
version = "0.1.0"
dependencies = ["itoa"]
`,
			'src/main.rs': 'fn main() { println!("{}", itoa::Buffer::new().format(7) == "7") }\n',
		},
		use: 'cargo run --quiet --locked',
	},
];

for (const { manager, files, use } of CASES) {
	test(
		`${manager}: what the lockfile names is installed once, and used without a network`,
		{ skip: SKIP || notAsked(manager) },
		async (t) => {
			const checkout = join(directory, manager);
			mkdirSync(checkout, { mode: 0o755 });
			chmodSync(directory, 0o755);
			lay(checkout, files);
			const dependencies = new Dependencies({
				directory: join(directory, 'dependencies'),
				downloads: join(directory, 'downloads'),
				sandboxes: async () => sandboxes,
				toolchains,
			});
			const [install] = findInstalls(checkout, '');
			assert.equal(install?.manager, manager);
			if (toolchains.find(install.tool) === null) return t.skip(`needs ${install.tool}`);
			const job = jobOf({ lane: `repository:${manager}`, reach: { allowed: ELSEWHERE, own: [] } });
			const temporary = join(directory, `temporary-${manager}`);
			const of = {
				checkout,
				content: manager,
				job,
				reach: () => reachOf(job),
				temporary,
				signal: new AbortController().signal,
				print() {},
			};
			let first: Provided;
			try {
				first = await dependencies.provide(install, of);
			} catch (error) {
				if (error instanceof BuildFault && UNREACHABLE.test(error.message))
					return t.skip(`needs the npm registry: ${error.message.slice(0, 300)}`);
				throw error;
			}
			const again = await dependencies.provide(install, of);
			assert.deepEqual([first.cached, again.cached, again.key], [false, true, first.key]);
			const caches = dependencies.caches(compilerCaches(checkout, ''), { job, temporary });
			const { layer, mounts } = again;
			const one = await sandboxes.create({ source: checkout, layers: layer === null ? [] : [layer], readOnly: mounts, writable: caches });
			const env = { ...install.use.env, PATH: [...install.use.path, ...toolchains.path, '/usr/local/bin:/usr/bin:/bin'].join(':') };
			const { exitCode, out, err } = await tell(one, use, { env });
			await one.destroy();
			assert.deepEqual([exitCode, out.trim()], [0, 'true'], err);
			if (manager !== 'go') return;
			// What the compiler made is there for the next build of the same circle, and for no other.
			assert.ok(existsSync(join(caches[0]!.from, 'trim.txt')) || readFileSync(join(caches[0]!.from, 'README'), 'utf8') !== '');
			const froms = (['production', 'preview', 'fork'] as const).map((trust) => dependencies.caches(compilerCaches(checkout, ''), { job: { ...job, trust }, temporary })[0]!.from); // prettier-ignore
			assert.equal(new Set(froms).size, 3);
			assert.equal(froms[0], caches[0]!.from);
			assert.ok(froms[2]!.startsWith(temporary));
		},
	);
}
