import { chmodSync, existsSync, lstatSync, mkdirSync, renameSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs'; // prettier-ignore
import { dirname, join } from 'node:path';
import { isRoot } from '#process/directory.ts';
import { EXIT, Failure, usage, type Exit } from './failure.ts';
import { choosePackage } from './installed/chosen.ts';
import { INSTALLED_PLACE, readInstalled, writeInstalled, type Installed } from './installed/note.ts';
import { copyPackage, ownPackage, packageId, type Package } from './installed/package.ts';
import { call, enableService, systemUser, verifyUnit, type SystemUser } from './installed/service.ts';
import { environmentLine, plistText, unitText, type Service } from './installed/unit.ts';
import { readIdentity } from './up/check-in.ts';
import { openData } from './up/installation.ts';
import type { Invocation, Verb } from './verbs.ts';

/** Where the parts of a service go. */
const UNIT = '/etc/systemd/system/jibe.service';
const ENVIRONMENT = '/etc/jibe/environment';
const SYSCTL = '/etc/sysctl.d/60-jibe.conf';
const COMMAND = '/usr/local/bin/jibe';
const PLIST = '/Library/LaunchDaemons/dev.jibe.plist';
const SERVICE_DATA = process.platform === 'darwin' ? '/usr/local/var/jibe' : '/var/lib/jibe';
const SERVICE_USER = 'jibe';
const PASSED_ON = ['regions', 'port', 'edge-port', 'listen', 'address', 'store', 'tls-cert', 'tls-key'];

/** `jibe install`: this version as a service of the machine, which starts it at boot and starts its supervisor again. */
export const verb: Verb = {
	syntax: {
		options: Object.fromEntries(PASSED_ON.map((name) => [name, 'value'])),
		positionals: ['control|agent|all'],
		optional: 0,
	},
	async run({ args, out, data: named }: Invocation): Promise<Exit> {
		if (!isRoot())
			throw new Failure('not_root', EXIT.notAllowed, 'a service of the machine is installed by root', { hint: 'sudo jibe install' });
		const data = args.value('data') === null && !process.env['JIBE_DATA'] ? SERVICE_DATA : named;
		const joined = existsSync(join(data, 'server', 'server.json'));
		const what = whatOf(args.positionals[0] ?? (joined ? 'agent' : 'all'), joined, data);
		const words = PASSED_ON.flatMap((name) => (args.value(name) === null ? [] : [`--${name}`, args.value(name)!]));
		if (what === 'control' && args.value('regions') === null) words.push('--regions', 'none');
		out.now('Copying the package…');
		const own = placed(ownPackage());
		choosePackage(INSTALLED_PLACE, own);
		openData(data);
		const user = hasNoApps(what, data) && process.platform === 'linux' ? systemUser(SERVICE_USER, data) : null;
		if (user !== null) handTo(user, data);
		const service: Service = { what, command: COMMAND, data, words, user, environmentFile: ENVIRONMENT };
		const installed = write(service, user, readInstalled(data));
		const warnings = installed.manager === 'systemd' ? verifyUnit(UNIT) : [];
		for (const line of warnings) out.say(`! ${line}`);
		const started = enableService(installed);
		out.result(
			{ what, service: installed.service, data, package: own.root, user: user?.name ?? 'root', started, files: installed.files, warnings },
			[
				`✓ Jibe ${own.version} is installed as ${installed.service} (${what}, as ${user?.name ?? 'root'}), with its data in ${data}`,
				started ? '  it runs, and starts at each boot' : `  no service manager runs here: start it with jibe up --data ${data} --detach`,
				'  jibe down stops it; jibe uninstall removes it',
			],
		);
		return EXIT.done;
	},
};

/** Only where apps run has something to be root. */
function hasNoApps(what: Service['what'], data: string): boolean {
	return what === 'control' || (what === 'agent' && readIdentity(data)?.roles.includes('agent') === false);
}

function whatOf(word: string, joined: boolean, data: string): Service['what'] {
	if (word !== 'control' && word !== 'agent' && word !== 'all') throw usage(`"${word}" can't be installed: control, agent or all can`);
	if (word === 'agent' && !joined) {
		throw usage(
			`${data} has not joined a control`,
			`first: jibe agent join STRING --data ${data} (jibe server add on control prints the string)`,
		);
	}
	if (word !== 'agent' && joined) throw usage(`${data} is a server that joined a control: it is installed as agent`);
	return word;
}

/** Where only root writes: the service's programs are not to be changed by the user whose npm brought them. */
function placed(own: Package): Package {
	if (own.root.startsWith(`${INSTALLED_PLACE}/`)) return own;
	return copyPackage(own, INSTALLED_PLACE, packageId(own));
}

function handTo(user: SystemUser, data: string): void {
	if (statSync(data).uid !== user.uid) call('chown', ['-R', `${user.name}:${user.name}`, data]);
	// What leads to it, where this made it, is everybody's to walk through.
	if (dirname(data) === dirname(SERVICE_DATA)) chmodSync(data, 0o700);
}

function write(service: Service, user: SystemUser | null, before: Installed | null): Installed {
	const mac = process.platform === 'darwin';
	const kept = keptVariables();
	const files: [file: string, text: string, mode: number][] = mac
		? [[PLIST, plistText(service, 'dev.jibe', { PATH: '/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin', ...kept }), 0o600]]
		: [
				[ENVIRONMENT, Object.entries(kept).map(([name, value]) => `${environmentLine(name, value)}\n`).join(''), 0o600], // prettier-ignore
				[SYSCTL, SYSCTL_TEXT, 0o644],
				[UNIT, unitText(service), 0o644],
			];
	const installed: Installed = {
		data: service.data,
		service: mac ? 'dev.jibe' : 'jibe',
		manager: mac ? 'launchd' : 'systemd',
		files: [...files.map(([file]) => file), COMMAND],
		madeDirectories: before?.madeDirectories ?? missingDirectories([...files.map(([file]) => file), COMMAND]),
		user: user && { name: user.name, uid: user.uid },
		madeUser: user?.made ? user.name : (before?.madeUser ?? null),
	};
	// First, so that what an interrupted one has written is found and removed.
	writeInstalled(installed);
	for (const [file, text, mode] of files) writeWhole(file, text, mode);
	linkCommand();
	if (!mac) handWaitingOn();
	return installed;
}

function missingDirectories(files: readonly string[]): string[] {
	const above = (path: string): string[] => (existsSync(dirname(path)) ? [] : [...above(dirname(path)), dirname(path)]);
	return [...new Set(files.flatMap(above))];
}

const SYSCTL_TEXT = `# Written by jibe install; jibe uninstall removes it.
# Connections that wait at an edge that ends are handed to the other one.
-net.ipv4.tcp_migrate_req = 1
`;

/** What the programs need of this shell's variables: they are in no other file. */
function keptVariables(): Record<string, string> {
	const kept = Object.entries(process.env).filter(([name]) =>
		/^(DATABASE_URL|PG[A-Z]+|AWS_[A-Z_]+|NODE_EXTRA_CA_CERTS|JIBE_SEPARATE)$/.test(name),
	);
	return Object.fromEntries(kept.map(([name, value]) => [name, value ?? '']));
}

function writeWhole(file: string, text: string, mode: number): void {
	mkdirSync(dirname(file), { recursive: true, mode: 0o755 });
	writeFileSync(`${file}.draft`, text, { mode });
	chmodSync(`${file}.draft`, mode);
	renameSync(`${file}.draft`, file);
}

/** @throws Failure when another program has the name */
function linkCommand(): void {
	const there = lstatSync(COMMAND, { throwIfNoEntry: false });
	if (there !== undefined && !there.isSymbolicLink()) {
		throw new Failure('command_taken', EXIT.usage, `${COMMAND} is there, and not a link of Jibe's`, {
			hint: 'move it away, and install again',
		});
	}
	mkdirSync(dirname(COMMAND), { recursive: true });
	rmSync(COMMAND, { force: true });
	symlinkSync(join(INSTALLED_PLACE, 'current', 'bin', 'jibe'), COMMAND);
}

/** At once, and not from the next boot on. */
function handWaitingOn(): void {
	try {
		writeFileSync('/proc/sys/net/ipv4/tcp_migrate_req', '1');
	} catch {
		// An older kernel has it not, and a container may not set it: edges close their ports when nobody waits, as far as they can see.
	}
}
