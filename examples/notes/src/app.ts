import { Hono } from 'hono';
import { HTTPException } from 'hono/http-exception';
import type { Notes } from './notes/store.ts';
import { home } from './routes/home.ts';
import { notes } from './routes/notes.ts';
import { search } from './routes/search.ts';
import { status } from './routes/status.ts';

export function createApp(store: Notes): Hono {
	const app = new Hono();
	app.route('/', home());
	app.route('/', status(store));
	app.route('/notes', notes(store));
	app.route('/search', search(store));
	app.notFound((c) => c.json({ error: `nothing at ${c.req.path}` }, 404));
	app.onError((error, c) => {
		if (error instanceof HTTPException) return c.json({ error: error.message }, error.status);
		console.error(error);
		return c.json({ error: 'internal error' }, 500);
	});
	return app;
}
