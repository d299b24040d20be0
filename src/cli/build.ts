import { systemClock } from '#clock/clock.ts';
import { buildInput, compile } from './compile.ts';
import { EXIT, Failure, type Exit } from './failure.ts';
import { count, done } from './output.ts';
import { projectDirectory, readProject, type Project } from './project.ts';
import type { Invocation, Verb } from './verbs.ts';

export const verb: Verb = {
	syntax: { options: { verify: 'flag' }, positionals: ['DIR'], optional: 0 },
	async run(invocation: Invocation): Promise<Exit> {
		const bootMs = systemClock.monotonic();
		const { args, out, environment } = invocation;
		const project = await readProject(projectDirectory(args.positionals[0]), environment);
		if (project.config.build !== undefined) invocation.out.say('! its build steps run on a builder: this is without what they make');
		const built = await compile(invocation, project, 'build', null);
		const verified = args.flag('verify') ? await verifyAgain(project) : null;
		const fields = {
			app: project.config.app,
			environment,
			artifact: built.artifact,
			modules: built.modules,
			...(verified === null ? {} : { verified: true, vendor: verified.vendor }),
			timings: {
				bootMs: round(bootMs),
				scanMs: round(built.timings.scanMs),
				compileMs: round(built.timings.compileMs),
				totalMs: round(systemClock.monotonic()),
			},
		};
		const lines = [built.artifact, ...(verified !== null ? [done('Verified', 'built again from nothing elsewhere: the same bytes')] : [])];
		out.result(fields, lines);
		return EXIT.done;
	},
};

/** Builds again from nothing in another directory. @throws Failure when that gives other bytes */
async function verifyAgain({ directory, config }: Project): Promise<{ vendor: string | null }> {
	const { verifyBuild } = await import('#build/verify.ts');
	const { same, artifact, again, vendor, differing } = await verifyBuild(buildInput(directory, config, 'build'));
	if (same) return { vendor };
	throw new Failure('not_reproducible', EXIT.jibe, `building again gave ${again}, not ${artifact}`, {
		hint: `${count(differing.length, 'file')} differ: ${differing.slice(0, MAX_SHOWN).join(', ')}`,
		fields: { artifact, again, differing },
	});
}

const MAX_SHOWN = 5;

function round(ms: number): number {
	return Math.round(ms * 10) / 10;
}
