import { Hono } from 'hono';
import { query } from '../notes/schema.ts';
import type { Notes } from '../notes/store.ts';
import { settings } from '../settings.ts';
import { checked } from './input.ts';

export function search(store: Notes): Hono {
	return new Hono().get('/', (c) => {
		const { q } = checked(query, c.req.query());
		return c.json({ q, notes: store.search(q, settings.pageLength) });
	});
}
