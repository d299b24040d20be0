import { Hono } from 'hono';
import { settings } from '../settings.ts';

const GREETING = 'Notes, kept well.';

export function home(): Hono {
	return new Hono().get('/', (c) =>
		c.json({
			greeting: GREETING,
			region: settings.region,
			release: settings.release,
			routes: [
				'GET /notes',
				'POST /notes',
				'GET /notes/:id',
				'PATCH /notes/:id',
				'DELETE /notes/:id',
				'GET /search?q=',
				'GET /healthz',
				'GET /version',
			],
		}),
	);
}
