import { systemClock as clock } from '#clock/clock.ts';
import { openTunnels } from '#agent/tunnel.ts';
import { Edge } from '#edge/edge.ts';
import { Remotes } from '#edge/remotes.ts';
import { createLog } from '#log/log.ts';
import { newSigningKey } from '#wire/credential.ts';
import { Peers } from '#wire/peers.ts';
import type { Instance, Want } from '#wire/region.ts';

/**
 * The processes of the hop's bench: `node hop-parts.ts agent DIRECTORY SOCKET` is what the other server has, `edge DIRECTORY
 * OWN-SOCKET MEMORY` the edge that reaches it and an instance of its own. Each prints its port in a line of JSON. Apps are
 * `near` (on the edge's server) and `far`.
 */
const log = createLog({}, { level: 'error' });
const [role, directory = '', socket = '', memory = ''] = process.argv.slice(2);

function report(server: string, app: string) {
	const rest = { healthy: true, pid: 1, reason: null, detail: null, restarts: 0, cold: false, timings: null };
	const instance: Instance = { id: `i-${app}`, release: 1, state: 'serving', address: `unix:${socket}`, ...rest };
	return { type: 'instances' as const, server, groups: [{ region: 'fra', app, environment: 'production', instances: [instance] }] };
}

async function agent(): Promise<void> {
	const tunnels = await openTunnels({ peers: new Peers({ directory, server: 'two', log }), host: '127.0.0.1', port: 0, log, clock });
	tunnels.note(report('two', 'far'));
	process.stdout.write(`${JSON.stringify({ port: tunnels.port })}\n`);
}

function edge(): void {
	const peers = new Peers({ directory, server: 'one', log });
	const remotes = new Remotes({ peers, onChange: () => router.serversChanged([]), log, clock });
	const router: Edge = new Edge({
		name: 'edge-0',
		server: 'one',
		regions: ['fra'],
		directory: memory,
		publicKey: newSigningKey().publicPem,
		remotes,
		clock,
		log,
		send: () => true,
	});
	router.receive(report('one', 'near'));
	router.receive(report('two', 'far'));
	router.receive({ type: 'wants', wants: ['near', 'far'].map(wantOf), releases: ['near', 'far'].map(specOf), gift: null });
	const front = router.front('fra');
	front.listen({ port: 0, host: '127.0.0.1' }, () => {
		const address = front.address();
		process.stdout.write(`${JSON.stringify({ port: typeof address === 'object' ? address?.port : null })}\n`);
	});
}

function wantOf(app: string): Want {
	const pointer = { primary: 1, candidate: null, hold: null };
	const run = [{ release: 1, instances: 1, as: 'serving' as const }];
	return { region: 'fra', app, environment: 'production', epoch: 1, version: 1, deployment: null, pointer, run };
}

function specOf(app: string) {
	return {
		app,
		environment: 'production',
		release: 1,
		deployment: 'dpl_00000001',
		artifact: `sha256:${'0'.repeat(64)}` as const,
		vendor: null,
		runtime: { kind: 'fetch' as const },
		entry: 'a.ts',
		env: {},
		health: { path: '/', timeoutMs: 2000, strict: false },
		memoryMiB: 512,
		cpuMillis: null,
		drain: { requestsMs: 30_000, streamsMs: 600_000 },
		warm: 'frozen' as const,
		domains: [],
		userKey: null,
		trustedProxies: [],
	};
}

process.once('SIGTERM', () => process.exit(0));
if (role === 'agent') await agent();
else edge();
