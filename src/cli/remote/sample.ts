import { buildApp } from '#build/build.ts';
import { encodeUpload, UPLOAD_TYPE } from '#wire/upload.ts';
import { buildInput } from '../compile.ts';
import type { Project } from '../project.ts';
import { ask, type Server } from '../server.ts';
import type { Invocation } from '../verbs.ts';
import { packSource } from './source.ts';

/**
 * Sends what an artifact was made of, because control has asked for it; nothing is said of it here. What was edited since the
 * deploy is not what was deployed: then there is nothing to send.
 */
export async function sendSample(
	{ out, verbose }: Invocation,
	server: Server,
	project: Project,
	of: { artifact: string; deployment: string },
): Promise<void> {
	const { directory, config } = project;
	try {
		const source = packSource(directory, config.include);
		const { artifact } = await buildApp(buildInput(directory, config, 'sample'));
		if (artifact !== of.artifact) return;
		const body = { bytes: encodeUpload({}, [source.bytes]), type: UPLOAD_TYPE };
		await ask(server, { method: 'PUT', path: `/api/v1/apps/${config.app}/blobs`, body });
		const json = { digest: source.digest, directory: source.directory };
		await ask(server, { method: 'POST', path: `/api/v1/deployments/${of.deployment}/source`, json });
	} catch (error) {
		// The deploy is done, and its exit code says so: a sample more or less does not matter.
		if (verbose) out.say(`! the source could not be sent to be built once more: ${error instanceof Error ? error.message : String(error)}`);
	}
}
