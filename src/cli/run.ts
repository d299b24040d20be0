import { COMMON, parseArguments } from './arguments.ts';
import { nearest } from '#wire/nearest.ts';
import { EXIT, Failure, usage, type Exit } from './failure.ts';
import { Output, type Sinks } from './output.ts';
import { dataDirectory } from './places.ts';
import { GROUPS, LATER, VERBS } from './verbs.ts';

/** Runs one verb and says how it went; the only place where failures become words and exit codes. */
export async function run(words: readonly string[], sinks?: Sinks): Promise<Exit> {
	const out = new Output(words.includes('--json'), sinks);
	const verbose = words.includes('--verbose') || words.includes('-v');
	try {
		const { name, rest } = verbOf(words);
		const entry = VERBS[name];
		if (entry === undefined) throw usage(`unknown verb ${name}`);
		const { verb } = await entry.load();
		const args = parseArguments(rest, verb.syntax);
		if (args.flag('help')) return await run(['help', ...name.split(' '), ...(out.json ? ['--json'] : [])], sinks);
		const environment = args.value('env') ?? 'production';
		return await verb.run({ args, out, environment, data: dataDirectory(args.value('data')), verbose });
	} catch (error) {
		return tell(error, out, verbose);
	}
}

function verbOf(words: readonly string[]): { name: string; rest: string[] } {
	const at = words.findIndex((word) => !word.startsWith('-'));
	if (at < 0) return { name: words.includes('--version') ? 'version' : 'help', rest: [...words].filter((word) => word.slice(2) in COMMON) };
	const [first = '', second] = [words[at], words[at + 1]];
	const rest = [...words.slice(0, at), ...words.slice(at + 1)];
	if (Object.hasOwn(VERBS, first)) return { name: first, rest };
	if (GROUPS.has(first)) {
		const name = `${first} ${second ?? ''}`;
		if (Object.hasOwn(VERBS, name)) return { name, rest: [...words.slice(0, at), ...words.slice(at + 2)] };
		const known = Object.keys(VERBS).filter((verb) => verb.startsWith(`${first} `));
		throw usage(`jibe ${first} needs one of: ${known.map((verb) => verb.slice(first.length + 1)).join(', ')}`);
	}
	if (LATER.includes(first)) throw usage(`jibe ${first} is not in this version`, 'jibe help lists what is');
	const near = nearest(first, [...Object.keys(VERBS), ...GROUPS]);
	throw usage(`unknown verb "${first}"`, near === null ? 'jibe help lists the verbs' : `did you mean jibe ${near}?`);
}

function tell(error: unknown, out: Output, verbose: boolean): Exit {
	const failure = asFailure(error);
	const [first = '', ...more] = failure.message.split('\n');
	out.say(`✗ ${first}`);
	for (const line of more) out.say(line);
	if (failure.hint !== null) for (const line of failure.hint.split('\n')) out.say(`  ${line}`);
	if (verbose && failure.cause !== undefined) out.say(`  cause: ${causeText(failure.cause)}`);
	if (out.json) {
		out.result({ ...failure.fields, error: { code: failure.code, message: failure.message, hint: failure.hint } }, []);
	}
	return failure.exit;
}

/** An error that no verb turned into words is a defect of Jibe: said as one, with its stack on request. */
function asFailure(error: unknown): Failure {
	if (error instanceof Failure) return error;
	const message = error instanceof Error ? error.message : String(error);
	return new Failure('internal', EXIT.jibe, `Jibe failed: ${message}`, { hint: 'run it again with --verbose for the cause', cause: error });
}

function causeText(cause: unknown): string {
	return cause instanceof Error ? (cause.stack ?? cause.message) : String(cause);
}
