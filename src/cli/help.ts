import { COMMON } from './arguments.ts';
import { EXIT, usage, type Exit } from './failure.ts';
import { table } from './output.ts';
import { VERBS, type Entry, type Invocation, type Verb } from './verbs.ts';

export const verb: Verb = {
	syntax: { options: {}, positionals: ['VERB', '…'], optional: 0 },
	async run({ args, out }: Invocation): Promise<Exit> {
		const wanted = args.positionals.join(' ');
		const named = Object.entries(VERBS).filter(([name]) => wanted === '' || name === wanted || name.startsWith(`${wanted} `));
		if (named.length === 0) throw usage(`unknown verb "${wanted}"`, 'jibe help lists the verbs');
		const options = wanted === '' ? [] : (await Promise.all(named.map(([, entry]) => optionsOf(entry)))).flat();
		const own = Object.fromEntries(options.map((name) => [name, OPTIONS[name] ?? '']));
		out.result({ verbs: named.map(([name, { usage: line, summary }]) => ({ name, usage: line, summary })), options: own }, [
			...(wanted === '' ? ['Edit, one command, live everywhere, safely; and back again faster than that.', ''] : []),
			...named.flatMap(([, { usage: line, summary }]) => [`  jibe ${line}`, `      ${summary}`]),
			'',
			...(wanted === '' ? [] : optionLines([...new Set(options), ...Object.keys(COMMON)])),
			...(wanted === '' ? ['  Every verb takes --env E (production by default), --data DIR, --json and --verbose.', EXITS] : []),
		]);
		return EXIT.done;
	},
};

const EXITS =
	"  Exit codes: 0 done, 1 the app's own fault, 2 usage or refused, 3 did not end live, 4 Jibe's or the network's fault, 5 not allowed.";

async function optionsOf({ load }: Entry): Promise<string[]> {
	return Object.keys((await load()).verb.syntax.options);
}

function optionLines(names: readonly string[]): string[] {
	const rows = names.map((name) => [`--${name}`, OPTIONS[name] ?? '']);
	return table(['', ''], rows)
		.slice(1)
		.map((line) => `  ${line}`);
}

/** What each option means; the same word means the same for every verb. */
export const OPTIONS: Readonly<Record<string, string>> = {
	address: "what others reach control at, where that is not this machine's own address",
	all: 'backup: the blobs of every release that is kept, not only of those that run or serve; control recover: every app that needs it',
	again: 'insist on a release that was rolled back before',
	'past-migration': 'go back even to a release that does not know the data any more',
	app: 'the app, where no jibe.json here names it',
	apps: 'only these apps (role deployer)',
	build: 'what the steps of this build printed, instead of what the app does',
	'allow-unsandboxed': 'builds run with all that the builder itself may do, where nothing here can keep them apart',
	builders: 'how many builders at least and at most, such as 0..2',
	cancel: 'it may be placed there again',
	data: "the installation's directory (or JIBE_DATA)",
	days: 'how long the token is valid',
	detach: "don't wait for the end",
	'edge-port': 'the port of the first region; the others count up from it',
	env: 'the environment: production unless another is named',
	environments: 'only these environments (role deployer)',
	follow: 'go on with what is written from now on (-f)',
	force: "deploy although a colleague's commit serves that is missing here; recorded",
	from: 'deploy what serves in that environment: the same artifact, configured for this one',
	help: 'this (-h)',
	api: "of the forge's API, where its URL doesn't say",
	commit: 'the one that you looked at',
	contains: 'its apps, each with its directory: shop=services/shop,web=apps/web',
	forge: 'github, gitlab, gitea or generic',
	forks: 'pull requests from there: ask, ignore',
	hotfix: 'what the names of branches begin with that go to production before everything else; none',
	others: 'all other branches: preview, ignore',
	production: 'the branch that goes to production; none',
	secret: 'token, clone, webhook or deploy-key: its value comes from standard input',
	remote: 'build on a builder, from the source as it is here',
	'keep-data': 'leave the directory, for another time',
	host: "where the region's other servers reach this one; else the address it speaks to control from",
	json: 'one JSON object, the last line of stdout',
	labels: 'what jibe.json may ask for in "servers"',
	limit: 'how many',
	listen: 'answer other machines over TLS there, such as 0.0.0.0:7443; none ends that',
	lines: 'at most this many of the newest, of each server',
	name: 'of the server; in server add: of the one whose place is taken',
	now: 'swing back a rollout that is under way instead of waiting for it',
	'passphrase-file': 'what seals the backup, in a file that only you may read',
	port: "of Jibe's API and page",
	reason: 'why, for the record',
	region: 'only this one',
	regions: 'how many, or their names; for a deploy, those to deploy to',
	roles: 'of depot, agent, edge',
	role: 'viewer, deployer or admin',
	service: 'for service managers: stay in the foreground as the supervisor itself',
	step: 'only what this step printed (--build)',
	since: 'a time such as 90s, 10m, 2h or 1d',
	stage: 'only remember it for the next deploy',
	store: 'where control keeps blobs: s3://bucket/prefix, or a directory that several controls share',
	strategy: "instead of jibe.json's: walk, canary, blue-green",
	take: 'whose word holds: that of the regions, as they serve, or that of the database',
	'take-over': 'take the place of a supervisor that runs; what it started runs on',
	'tls-cert': 'a public certificate with its chain, instead of one of our own',
	'tls-key': 'and its key',
	to: 'exactly this release',
	verbose: 'the cause of an error, too (-v)',
	version: 'the same',
	verify: 'build again from nothing elsewhere, and compare',
	'without-keys': 'leave out what signs for this installation: the restored one gets new keys',
	'revoke-old': 'end the versions before, once nothing serves with them',
	'lost-key': 'the master key is lost: begin with another, and give up what it sealed',
	yes: 'really',
};
