import { BuildError, placeOf } from './build-error.ts';
import { parseBody, visit, type Node } from './compile.ts';
import type { Facts } from './facts.ts';

/** Whether the entry can answer requests, as far as it can be told without running it. */

/** @throws BuildError no_fetch or app_listens */
export function checkEntry(file: string, format: string, facts: Facts, code: string, source: string): void {
	if (format !== 'module') return;
	if (!facts.exports.includes('default')) {
		const at = source.search(/\b(?:listen|serve)\s*\(/);
		if (facts.listens && at >= 0) {
			throw new BuildError('app_listens', 'the entry listens by itself instead of exporting what answers', {
				...placeOf(file, source, at),
				hint: 'Export it instead, and let Jibe listen: `export default app` (an object with `fetch`, or an Express app).',
			});
		}
		throw noFetch(file, source, 'the entry has no default export', source.length);
	}
	if (!/\bexport default\b|\bas default\b/.test(code)) return;
	const body = parseBody(code);
	const exported = body.find((node) => node['type'] === 'ExportDefaultDeclaration');
	let value = exported?.['declaration'] as Node | undefined;
	if (value?.['type'] === 'Identifier') value = constantNamed(body, value['name'] as string);
	if (value !== undefined && cannotFetch(value)) {
		const at = source.search(/\bexport\s+default\b/);
		throw noFetch(file, source, 'the default export of the entry has no fetch()', Math.max(0, at));
	}
}

function noFetch(file: string, source: string, message: string, at: number): BuildError {
	return new BuildError('no_fetch', message, {
		...placeOf(file, source, at),
		hint: 'Export an object with `fetch(request)`, such as a Hono app, or a function: `export default app`.',
	});
}

function cannotFetch(value: Node): boolean {
	if (value['type'] === 'Literal' || value['type'] === 'ArrayExpression' || value['type'] === 'TemplateLiteral') return true;
	if (value['type'] !== 'ObjectExpression') return false;
	return !(value['properties'] as Node[]).some((property) => {
		if (property['type'] !== 'Property' || property['computed'] === true) return true;
		const key = property['key'] as Node;
		return key['name'] === 'fetch' || key['value'] === 'fetch';
	});
}

/** The initial value of a `const` at the top level that nothing adds to. */
function constantNamed(body: Node[], name: string): Node | undefined {
	let value: Node | undefined;
	for (const statement of body) {
		const declaration = statement['type'] === 'ExportNamedDeclaration' ? (statement['declaration'] as Node | null) : statement;
		if (declaration?.['type'] !== 'VariableDeclaration' || declaration['kind'] !== 'const') continue;
		for (const each of declaration['declarations'] as Node[]) {
			if ((each['id'] as Node)['name'] === name) value = each['init'] as Node;
		}
	}
	let assigned = false;
	visit(body, (node) => {
		const target = node['type'] === 'AssignmentExpression' ? (node['left'] as Node) : undefined;
		if (target?.['type'] === 'MemberExpression' && (target['object'] as Node)['name'] === name) assigned = true;
	});
	return assigned ? undefined : value;
}
