import { z } from 'zod';

const title = z.string().trim().min(1).max(200);
const text = z.string().max(10_000);
const tags = z.array(z.string().trim().min(1).max(40)).max(20);

export const noteId = z.coerce.number().int().positive();
export const newNote = z.strictObject({ title, text: text.default(''), tags: tags.default([]) });
export const changedNote = z.strictObject({ title, text, tags }).partial();
export const page = z.object({ before: noteId.optional(), limit: z.coerce.number().int().min(1).max(100).optional() });
export const query = z.object({ q: z.string().trim().min(1).max(200) });

export type NewNote = z.infer<typeof newNote>;
export type ChangedNote = z.infer<typeof changedNote>;
