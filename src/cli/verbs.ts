import type { Arguments, Syntax } from './arguments.ts';
import type { Exit } from './failure.ts';
import type { Output } from './output.ts';

/** What a verb is given. */
export interface Invocation {
	args: Arguments;
	out: Output;
	/** `--env`, production by default. */
	environment: string;
	/** The installation's directory on this machine. */
	data: string;
	verbose: boolean;
}

/** One file of this folder each; nothing else of the file is used. */
export interface Verb {
	syntax: Syntax;
	run(invocation: Invocation): Promise<Exit>;
}

export interface Entry {
	usage: string;
	summary: string;
	load: () => Promise<{ verb: Verb }>;
}

/** Every verb, in the order in which help lists them; two words where a verb has verbs of its own. */
export const VERBS: Readonly<Record<string, Entry>> = {
	up: {
		usage:
			'up [--regions N|a,b,c|none] [--listen HOST:PORT] [--data DIR] [--port 7070] [--edge-port 8080] [--store s3://BUCKET] [--builders 0..2] [--detach]',
		summary: 'start Jibe on this machine',
		load: () => import('./up.ts'),
	},
	down: { usage: 'down [--data DIR]', summary: 'stop everything of it', load: () => import('./down.ts') },
	init: { usage: 'init [DIR]', summary: 'write a first jibe.json', load: () => import('./init.ts') },
	deploy: {
		usage: 'deploy [DIR] [--remote] [--regions a,b] [--strategy walk] [--reason TEXT] [--now] [--force] [--detach]',
		summary: 'take a directory live',
		load: () => import('./deploy.ts'),
	},
	rollback: {
		usage: 'rollback [APP|dpl_…] [--to v41] [--again] [--past-migration] [--reason TEXT] [--detach]',
		summary: 'swing back to the last good release',
		load: () => import('./rollback.ts'),
	},
	promote: { usage: 'promote dpl_…', summary: 'let a deployment that waits for a person go on', load: () => import('./promote.ts') },
	cancel: { usage: 'cancel dpl_…', summary: 'stop a deployment or build that is under way', load: () => import('./cancel.ts') },
	retry: { usage: 'retry dpl_…', summary: 'queue a build that ended once more', load: () => import('./retry.ts') },
	status: { usage: 'status [APP]', summary: 'what serves where', load: () => import('./status.ts') },
	history: { usage: 'history [APP] [--limit N]', summary: 'deployments, newest first', load: () => import('./history.ts') },
	logs: {
		usage: 'logs [APP] [-f] [--since 10m] [--build dpl_… [--step NAME]]',
		summary: "an app's output, or a build's",
		load: () => import('./logs.ts'),
	},
	why: { usage: 'why STEP [APP|dpl_…]', summary: 'what made a step of the build run again', load: () => import('./why.ts') },
	build: { usage: 'build [DIR] [--verify]', summary: 'compile without deploying', load: () => import('./build.ts') },
	plan: { usage: 'plan [DIR]', summary: 'what a deploy would do', load: () => import('./plan.ts') },
	'config check': { usage: 'config check [DIR]', summary: 'check jibe.json', load: () => import('./config-check.ts') },
	'env list': { usage: 'env list [APP]', summary: 'variables of an environment', load: () => import('./env-list.ts') },
	'env set': {
		usage: 'env set NAME=VALUE… [--app APP] [--stage]',
		summary: 'set variables and deploy',
		load: () => import('./env-set.ts'),
	},
	'env rm': { usage: 'env rm NAME… [--app APP] [--stage]', summary: 'remove variables and deploy', load: () => import('./env-rm.ts') },
	'secret list': {
		usage: 'secret list [APP]',
		summary: 'names and versions of secrets, never values',
		load: () => import('./secret-list.ts'),
	},
	'secret set': {
		usage: 'secret set NAME [--app APP] [--stage] [--revoke-old] < value',
		summary: 'set a secret and deploy',
		load: () => import('./secret-set.ts'),
	},
	'secret rm': { usage: 'secret rm NAME [--app APP]', summary: 'remove a secret', load: () => import('./secret-rm.ts') },
	'secret rotate': {
		usage: 'secret rotate [--lost-key]',
		summary: 'seal all secrets under a new master key',
		load: () => import('./secret-rotate.ts'),
	},
	'repo add': {
		usage: 'repo add NAME [URL] [--forge github|gitlab|gitea|generic] [--contains app=DIR,…] [--secret token < token] [--production main]',
		summary: 'deploy what is pushed to a repository elsewhere, or change how',
		load: () => import('./repo-add.ts'),
	},
	'repo connect': {
		usage: 'repo connect [NAME]',
		summary: 'make "git push jibe" go here, without a password',
		load: () => import('./repo-connect.ts'),
	},
	'git-credential': {
		usage: 'git-credential get',
		summary: "tells git the token, as a credential helper of git's",
		load: () => import('./git-credential.ts'),
	},
	'repo list': { usage: 'repo list', summary: 'repositories, and the last that was heard of each', load: () => import('./repo-list.ts') },
	'repo remove': {
		usage: 'repo remove NAME',
		summary: 'forget a repository; what it deployed stays',
		load: () => import('./repo-remove.ts'),
	},
	'repo pulls': { usage: 'repo pulls [NAME]', summary: 'pull requests from forks', load: () => import('./repo-pulls.ts') },
	'repo approve': {
		usage: 'repo approve NAME NUMBER --commit COMMIT',
		summary: 'let a commit of a fork be built, without secrets',
		load: () => import('./repo-approve.ts'),
	},
	'outbound list': {
		usage: 'outbound list',
		summary: 'private addresses that control may connect to',
		load: () => import('./outbound-list.ts'),
	},
	'outbound allow': {
		usage: 'outbound allow HOST[:PORT]|RANGE',
		summary: 'one more, such as a forge of your own',
		load: () => import('./outbound-allow.ts'),
	},
	'outbound deny': { usage: 'outbound deny HOST[:PORT]|RANGE', summary: 'one less', load: () => import('./outbound-deny.ts') },
	'token create': {
		usage: 'token create NAME [--role viewer|deployer|admin] [--apps a,b] [--environments a,b] [--days N]',
		summary: 'a token for a person or a machine',
		load: () => import('./token-create.ts'),
	},
	'token list': { usage: 'token list', summary: 'tokens and their last use', load: () => import('./token-list.ts') },
	'token revoke': { usage: 'token revoke ID', summary: 'end a token at once', load: () => import('./token-revoke.ts') },
	'app list': { usage: 'app list', summary: 'every app', load: () => import('./app-list.ts') },
	'app remove': { usage: 'app remove APP --yes', summary: 'stop an app and forget it', load: () => import('./app-remove.ts') },
	'region list': { usage: 'region list', summary: 'regions and who is connected', load: () => import('./region-list.ts') },
	install: {
		usage: 'install [control|agent|all] [--data DIR] [--regions …] [--port 7070] [--edge-port 80] [--listen HOST:PORT]',
		summary: 'make it a service of this machine',
		load: () => import('./install.ts'),
	},
	uninstall: { usage: 'uninstall [--keep-data]', summary: 'end it and leave nothing behind', load: () => import('./uninstall.ts') },
	upgrade: {
		usage: 'upgrade [PACKAGE.tgz|DIR|VERSION]',
		summary: 'go over to another version of Jibe while it serves',
		load: () => import('./upgrade.ts'),
	},
	'server add': {
		usage: 'server add --region R [--roles depot,agent,edge] [--labels a,b] [--name N]',
		summary: 'a line to paste on a new server, or on one that takes the place of N',
		load: () => import('./server-add.ts'),
	},
	'server list': { usage: 'server list', summary: 'servers that joined, and how they are', load: () => import('./server-list.ts') },
	'server drain': {
		usage: 'server drain SERVER [--cancel]',
		summary: 'move what runs on a server away, and wait for it',
		load: () => import('./server-drain.ts'),
	},
	'server remove': { usage: 'server remove SERVER', summary: 'refuse a server from now on', load: () => import('./server-remove.ts') },
	'agent join': {
		usage: 'agent join STRING [--name N] [--host ADDRESS] [--roles depot,agent,edge] [--edge-port 8080] [--detach]',
		summary: 'make this machine a server of a Jibe elsewhere',
		load: () => import('./agent-join.ts'),
	},
	backup: {
		usage: 'backup FILE [--all] [--passphrase-file FILE] [--without-keys]',
		summary: 'everything in one file, while it runs',
		load: () => import('./backup.ts'),
	},
	restore: {
		usage: 'restore FILE [--data DIR] [--passphrase-file FILE] [--store s3://BUCKET]',
		summary: 'a backup into an empty directory or database',
		load: () => import('./restore.ts'),
	},
	'control recover': {
		usage: 'control recover [APP] [--all] [--take regions|database]',
		summary: 'lift read-only: the database was restored or failed over',
		load: () => import('./control-recover.ts'),
	},
	doctor: { usage: 'doctor', summary: 'look for what is wrong', load: () => import('./doctor.ts') },
	open: { usage: 'open [APP]', summary: 'the page of this installation, or of an app', load: () => import('./open.ts') },
	login: { usage: 'login URL [< token]', summary: 'use a Jibe on another machine', load: () => import('./login.ts') },
	version: { usage: 'version', summary: "Jibe's and Node's versions", load: () => import('./version.ts') },
	help: { usage: 'help [VERB]', summary: 'this', load: () => import('./help.ts') },
};

/** Verbs that the design names and this version does not have yet. */
export const LATER: readonly string[] = [
	'abort', 'approve', 'domain', 'dev',
	'edge',
]; // prettier-ignore

/** Prefix shared by verbs of two words. */
export const GROUPS: ReadonlySet<string> = new Set(
	Object.keys(VERBS)
		.filter((name) => name.includes(' '))
		.map((name) => name.slice(0, name.indexOf(' '))),
);
