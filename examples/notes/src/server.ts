import { createApp } from './app.ts';
import { openNotes } from './notes/store.ts';
import { settings } from './settings.ts';

/** What Jibe starts: a module whose default export has `fetch`. A Hono app is one. */
export default createApp(openNotes(settings.dataDirectory));
