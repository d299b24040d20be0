import { Hono } from 'hono';
import { HTTPException } from 'hono/http-exception';
import { changedNote, newNote, noteId, page } from '../notes/schema.ts';
import type { Note, Notes } from '../notes/store.ts';
import { settings } from '../settings.ts';
import { checked, jsonBody } from './input.ts';

export function notes(store: Notes): Hono {
	const app = new Hono();
	app.get('/', (c) => {
		const { before, limit } = checked(page, c.req.query());
		const found = store.list(before ?? null, limit ?? settings.pageLength);
		return c.json({ notes: found, next: found.at(-1)?.id ?? null });
	});
	app.post('/', async (c) => {
		const note = store.add(checked(newNote, await jsonBody(c.req)));
		return c.json(note, 201, { location: `/notes/${note.id}` });
	});
	app.get('/:id', (c) => c.json(existing(store.get(checked(noteId, c.req.param('id'))))));
	app.patch('/:id', async (c) => {
		const id = checked(noteId, c.req.param('id'));
		return c.json(existing(store.change(id, checked(changedNote, await jsonBody(c.req)))));
	});
	app.delete('/:id', (c) => {
		if (!store.remove(checked(noteId, c.req.param('id')))) throw new HTTPException(404, { message: 'no such note' });
		return c.body(null, 204);
	});
	return app;
}

function existing(note: Note | null): Note {
	if (!note) throw new HTTPException(404, { message: 'no such note' });
	return note;
}
