import { z } from 'zod';
import { errorBody } from '#wire/api.ts';
import { UPLOAD_TYPE } from '#wire/upload.ts';
import type { Route } from './route.ts';

/** The OpenAPI 3.1 document of the table that the router serves. */
export function openApi(routes: readonly Route[], version: string): object {
	const paths: Record<string, Record<string, object>> = {};
	for (const row of routes) {
		const path = row.path.replaceAll(/:(\w+)/g, '{$1}');
		paths[path] = { ...paths[path], [row.method.toLowerCase()]: operation(row) };
	}
	return {
		openapi: '3.1.0',
		info: { title: 'Jibe', version, description: 'Deploys, rollbacks, and what serves where.' },
		paths,
		components: {
			schemas: { Error: jsonSchema(errorBody) },
			securitySchemes: {
				token: { type: 'http', scheme: 'bearer', description: 'A token of "jibe token create".' },
				program: { type: 'http', scheme: 'bearer', description: 'The credential of a depot, or of a builder.' },
			},
		},
	};
}

function operation(row: Route): object {
	const failed = {
		description: 'Refused: `error.code` says why.',
		content: { 'application/json': { schema: { $ref: '#/components/schemas/Error' } } },
	};
	return {
		summary: row.summary,
		...(row.role === 'public' ? {} : { security: [{ [isProgram(row) ? 'program' : 'token']: [] }] }),
		...(row.role === 'public' || isProgram(row) ? {} : { 'x-jibe-role': row.role }),
		parameters: [...parameters(row.path, 'path', row.params), ...parameters(row.path, 'query', row.query)],
		...requestBody(row),
		responses: { [row.answer === null ? '204' : '200']: success(row), default: failed },
	};
}

function isProgram({ role }: Route): boolean {
	return role === 'program' || role === 'builder';
}

function parameters(path: string, where: 'path' | 'query', schema: z.ZodObject | undefined): object[] {
	if (!schema)
		return where === 'path'
			? [...path.matchAll(/:(\w+)/g)].map(([, name]) => ({ name, in: 'path', required: true, schema: { type: 'string' } }))
			: [];
	const { properties = {}, required = [] } = jsonSchema(schema) as { properties?: Record<string, object>; required?: string[] };
	return Object.entries(properties).map(([name, of]) => ({
		name,
		in: where,
		required: where === 'path' || required.includes(name),
		schema: of,
	}));
}

function requestBody(row: Route): object {
	if (row.body) return { requestBody: { required: true, content: { 'application/json': { schema: jsonSchema(row.body) } } } };
	if (row.uploadBytes === undefined) return {};
	return {
		requestBody: {
			required: true,
			content: { [UPLOAD_TYPE]: { schema: { type: 'string', format: 'binary', maxLength: row.uploadBytes } } },
		},
	};
}

function success(row: Route): object {
	if (row.answer === null) return { description: 'Done.' };
	if (typeof row.answer === 'string') return { description: 'Done.', content: { [row.answer]: { schema: { type: 'string' } } } };
	const type = row.lines ? 'application/x-ndjson' : 'application/json';
	return { description: row.lines ? 'Lines, each of this schema.' : 'Done.', content: { [type]: { schema: jsonSchema(row.answer) } } };
}

function jsonSchema(schema: z.ZodType): object {
	// What a query holds is text before it is parsed: the document describes what is sent.
	const { $schema: _, ...rest } = z.toJSONSchema(schema, { io: 'input', unrepresentable: 'any' });
	return rest;
}
