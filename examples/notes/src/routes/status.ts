import { Hono } from 'hono';
import type { Notes } from '../notes/store.ts';
import { settings } from '../settings.ts';

export function status(store: Notes): Hono {
	const app = new Hono();
	// Healthy means that notes can be read, not merely that the process runs.
	app.get('/healthz', (c) => c.json({ ok: true, notes: store.count() }));
	app.get('/version', (c) => c.json({ release: settings.release, region: settings.region, node: process.version }));
	return app;
}
