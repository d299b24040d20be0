import { systemClock } from '#clock/clock.ts';
import type { RemoteBuild } from '#wire/builds.ts';
import { encodeUpload, UPLOAD_TYPE } from '#wire/upload.ts';
import { conclude } from '../conclude.ts';
import { EXIT, usage, type Exit } from '../failure.ts';
import { gitFacts } from '../git.ts';
import { count, done } from '../output.ts';
import { readProject } from '../project.ts';
import { ask, findServer } from '../server.ts';
import type { Invocation } from '../verbs.ts';
import { BuildFollower, endedWithout } from './follow.ts';
import { packSource } from './source.ts';

/** `jibe deploy --remote`: the source goes to control, a builder makes the artifact, and that goes live as if it came from here. `platform`: of the builder. */
export async function deployRemote(
	invocation: Invocation,
	directory: string,
	bootMs: number,
	platform: RemoteBuild['platform'] = null,
): Promise<Exit> {
	const { args, out, environment, data } = invocation;
	for (const option of ['regions', 'strategy'] as const) {
		if ((option === 'regions' ? args.list(option) : args.value(option)) !== null)
			throw usage(`--${option} does not go with --remote`, `set "${option}" in jibe.json: the builder reads it there`);
	}
	const facts = gitFacts(directory);
	const { config, assumed } = await readProject(directory, environment);
	for (const line of assumed) out.say(`Assumed: ${line}`);
	const server = findServer(data);
	const { app } = config;
	out.now('Packing the source…');
	const source = packSource(directory, config.include);
	for (const warning of source.warnings) out.say(`! ${warning}`);
	const uploadedBytes = await send();
	out.say(done(`Sent ${count(source.files, 'file')}`, `${Math.ceil(uploadedBytes / 1024)} KiB`));
	const git = await facts;
	const json: RemoteBuild = {
		environment,
		source: { kind: 'tar', digest: source.digest },
		directory: source.directory,
		commit: git?.commit ?? null,
		dirty: git?.dirty ?? false,
		branch: git?.branch ?? null,
		author: null,
		subject: null,
		ancestors: git?.ancestors ?? [],
		platform,
		why: args.value('reason'),
		force: args.flag('force'),
		now: args.flag('now'),
	};
	const queued = (await ask(server, { method: 'POST', path: `/api/v1/apps/${app}/builds`, json })) as { id: string; already: boolean };
	if (args.flag('detach')) {
		out.result({ deployment: queued.id, app, environment, state: 'Queued', already: queued.already }, [
			`${queued.id} is queued: jibe logs --build ${queued.id} -f`,
		]);
		return EXIT.done;
	}
	const followed = await new BuildFollower({ server, out, id: queued.id, verbose: invocation.verbose }).end();
	if (followed === 'left') {
		out.result({ deployment: queued.id, app, environment }, []);
		return EXIT.done;
	}
	const { deployment, build, already } = followed;
	if (deployment === null) throw endedWithout(build, { app, environment }, systemClock.monotonic());
	const outcome = { deployment, already: already || queued.already, detached: false, firstByteMs: null };
	return conclude(out, outcome, { uploadedBytes, timings: { bootMs } });

	/** Unless control has it from an earlier time. */
	async function send(): Promise<number> {
		const { missing } = (await ask(server, {
			method: 'POST',
			path: `/api/v1/apps/${app}/missing`,
			json: { digests: [source.digest] },
		})) as { missing: string[] };
		if (missing.length === 0) return 0;
		const bytes = encodeUpload({}, [source.bytes]);
		await ask(server, { method: 'PUT', path: `/api/v1/apps/${app}/blobs`, body: { bytes, type: UPLOAD_TYPE } });
		return bytes.length;
	}
}
