import { chownSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { canonicalJson, sha256 } from '#digest/digest.ts';
import type { ReleaseSpec } from '#wire/region.ts';
import type { Template } from './instance-process.ts';
import { filesDirectory, viewOf, type Layout } from './layout.ts';
import type { Held } from './secrets.ts';
import type { StartOrder } from './start.ts';

/** Jibe listens for a fetch app. What listens beside that gets a port of its own: instances of one server share the rest. */
const ANY_PORT = '0';

/** What an instance is told when it gets its release, and a directory of its own that it may write to. */
export function variablesOf({ region, spec }: StartOrder, layout: Layout, uid: number | null): Record<string, string> {
	const directory = join(filesDirectory(layout, spec), region);
	mkdirSync(directory, { recursive: true, mode: 0o700 });
	if (uid !== null) chownSync(directory, uid, uid);
	return {
		JIBE_REGION: region,
		JIBE_RELEASE: `v${spec.release}`,
		JIBE_DEPLOYMENT: spec.deployment,
		JIBE_DATA_DIR: join(viewOf(layout, spec, spec.vendor).files, region),
	};
}

/** Everything that a process must be born with to run this release. Another env, vendor tree or limit: another process. */
export function templateOf(spec: ReleaseSpec, preimport: string[], { versions, list: secrets }: Held): Template {
	const { app, environment, vendor, memoryMiB, cpuMillis } = spec;
	const env = { NODE_ENV: 'production', PORT: ANY_PORT, JIBE_APP: app, JIBE_ENVIRONMENT: environment, ...spec.env };
	const key = sha256(
		canonicalJson({ app, environment, vendor, memoryMiB, cpuMillis, env, secrets: versions, node: spec.runtime.node ?? null }),
	);
	return { key, app, environment, vendor, preimport, env, secrets, memoryMiB, cpuMillis };
}
