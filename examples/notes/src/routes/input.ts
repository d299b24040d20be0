import { HTTPException } from 'hono/http-exception';
import { z } from 'zod';

/** The value as the schema wants it, or an answer of 400 that says what is wrong. */
export function checked<T extends z.ZodType>(schema: T, value: unknown): z.infer<T> {
	const parsed = schema.safeParse(value);
	if (!parsed.success) throw new HTTPException(400, { message: z.prettifyError(parsed.error) });
	return parsed.data;
}

export async function jsonBody(request: { json(): Promise<unknown> }): Promise<unknown> {
	try {
		return await request.json();
	} catch (cause) {
		throw new HTTPException(400, { message: 'the body is not JSON', cause });
	}
}
