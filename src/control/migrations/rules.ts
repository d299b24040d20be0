/**
 * What in a migration locks a table while requests wait, or breaks the release that serves and the ones that a rollback
 * goes to. Read from PostgreSQL's own syntax tree. What is said of a table that the same files create does not count:
 * nobody uses it yet.
 */

export interface Unsafe {
	/** `drop-column` and the like. */
	rule: string;
	/** Breaks: the code of before fails on it. Locks: it waits for it. */
	harm: 'breaks' | 'locks';
	says: string;
}

/** A node of the tree: one key, its kind, and what it holds. */
export type Node = Record<string, unknown>;

/** Tables that a statement creates. */
export function createdBy(statement: Node): string[] {
	const relation = field(statement, 'CreateStmt', 'relation') ?? field(statement, 'CreateTableAsStmt', 'into', 'rel');
	return relation ? [nameOf(relation)] : [];
}

export function unsafeIn(statement: Node, created: ReadonlySet<string>): Unsafe[] {
	const [kind, of] = Object.entries(statement)[0] as [string, Node];
	const judge = JUDGES[kind];
	const relation = of['relation'];
	if (!judge || (isNode(relation) && created.has(nameOf(relation)))) return [];
	return judge(of);
}

type Judge = (of: Node) => Unsafe[];

const JUDGES: Readonly<Record<string, Judge>> = {
	AlterTableStmt: alterTable,
	RenameStmt: (of) => [
		breaks('rename', `renames ${words(of['renameType'])} ${text(of['subname']) || nameOf(of['relation'])}, which the code of before uses by its old name: add the new one beside it`),
	],
	DropStmt: drop,
	IndexStmt: (of) => (of['concurrent'] ? [] : [locks('index', `builds an index on ${nameOf(of['relation'])} while nobody may write to it: create index concurrently`)]),
	ReindexStmt: (of) => (hasOption(of['params'], 'concurrently') ? [] : [locks('reindex', 'rebuilds indexes while nobody may write: reindex … concurrently')]),
	VacuumStmt: (of) => (hasOption(of['options'], 'full') ? [locks('vacuum-full', 'rewrites the table while nobody may read it')] : []),
	ClusterStmt: () => [locks('cluster', 'rewrites the table while nobody may read it')],
	RefreshMatViewStmt: (of) => (of['concurrent'] ? [] : [locks('refresh', `nobody may read ${nameOf(of['relation'])} meanwhile: refresh materialized view concurrently`)]),
	LockStmt: () => [locks('lock', 'locks a table for all of the migration')],
	TruncateStmt: () => [breaks('truncate', 'empties a table that the code of before uses')],
	UpdateStmt: (of) => (of['whereClause'] ? [] : [locks('update-all', `writes every row of ${nameOf(of['relation'])} in one transaction: do it in batches`)]),
	DeleteStmt: (of) => (of['whereClause'] ? [] : [breaks('delete-all', `removes every row of ${nameOf(of['relation'])}`)]),
	AlterEnumStmt: (of) => (of['oldVal'] ? [breaks('rename-value', `renames the value ${text(of['oldVal'])} of a type, which the code of before writes`)] : []),
}; // prettier-ignore

const DROPPED: Readonly<Record<string, string>> = {
	OBJECT_TABLE: 'table',
	OBJECT_VIEW: 'view',
	OBJECT_MATVIEW: 'materialized view',
	OBJECT_FOREIGN_TABLE: 'foreign table',
	OBJECT_SEQUENCE: 'sequence',
	OBJECT_TYPE: 'type',
	OBJECT_DOMAIN: 'domain',
	OBJECT_SCHEMA: 'schema',
	OBJECT_FUNCTION: 'function',
	OBJECT_PROCEDURE: 'procedure',
	OBJECT_EXTENSION: 'extension',
};

function drop(of: Node): Unsafe[] {
	const type = text(of['removeType']);
	if (type === 'OBJECT_INDEX') {
		return of['concurrent'] ? [] : [locks('drop-index', 'waits for all who use the table, and they for it: drop index concurrently')];
	}
	const what = DROPPED[type];
	return what === undefined
		? []
		: [breaks(`drop-${what.replaceAll(' ', '-')}`, `drops a ${what} that the code of before may use: do that in migrate.after`)];
}

function alterTable(of: Node): Unsafe[] {
	// Of an index, a view or a type nothing is rewritten.
	const table = nameOf(of['relation']);
	return list(of['cmds']).flatMap((one) => alteration(table, field(one, 'AlterTableCmd') ?? {}));
}

const REWRITES: Readonly<Record<string, string>> = {
	AT_SetLogged: 'set logged',
	AT_SetUnLogged: 'set unlogged',
	AT_SetTableSpace: 'set tablespace',
	AT_SetAccessMethod: 'set access method',
};

function alteration(table: string, command: Node): Unsafe[] {
	const subtype = text(command['subtype']);
	const column = `${table}.${text(command['name'])}`;
	switch (subtype) {
		case 'AT_DropColumn':
			return [breaks('drop-column', `drops ${column}, which the code of before uses: do that in migrate.after`)];
		case 'AT_AddColumn':
			return addedColumn(table, field(command, 'def', 'ColumnDef') ?? {});
		case 'AT_AlterColumnType':
			return [locks('column-type', `changes the type of ${column}: the table is rewritten while nobody may read it; add a column beside it`)];
		case 'AT_SetNotNull':
			return [breaks('set-not-null', `${column} may not be null any more: the code of before may still write that, and the table is read whole under a lock`)];
		case 'AT_ColumnDefault':
			return command['def'] ? [] : [breaks('drop-default', `${column} loses its default, which the code of before may rely on`)];
		case 'AT_AddConstraint':
			return addedConstraint(table, field(command, 'def', 'Constraint') ?? {});
		default:
			return REWRITES[subtype] === undefined ? [] : [locks('rewrite', `${REWRITES[subtype]} rewrites ${table} while nobody may read it`)];
	}
} // prettier-ignore

/** Known when the statement begins: the same for every row, so that none has to be written. */
const STABLE = new Set(['now', 'transaction_timestamp', 'statement_timestamp', 'current_setting', 'current_database', 'lower', 'upper']);
const SERIAL = /^(small|big)?serial\d?$/;

function addedColumn(table: string, column: Node): Unsafe[] {
	const constraints = list(column['constraints']).map((one) => field(one, 'Constraint') ?? {});
	const has = (type: string) => constraints.find((one) => one['contype'] === type);
	const name = `${table}.${text(column['colname'])}`;
	const type = text(field(list(field(column, 'typeName')?.['names']).at(-1), 'String')?.['sval']);
	const standard = has('CONSTR_DEFAULT');
	const filled = standard || has('CONSTR_IDENTITY') || has('CONSTR_GENERATED') || SERIAL.test(type);
	const found: Unsafe[] = [];
	if (has('CONSTR_NOTNULL') && !filled)
		found.push(breaks('not-null', `adds ${name} that may not be null and has no default: the code of before writes rows without it`));
	if (has('CONSTR_IDENTITY') || has('CONSTR_GENERATED') || SERIAL.test(type) || callsVolatile(standard?.['raw_expr']))
		found.push(locks('volatile-default', `gives ${name} a value of its own in each row: the table is rewritten while nobody may read it`));
	if (has('CONSTR_UNIQUE') || has('CONSTR_PRIMARY'))
		found.push(locks('unique', `builds an index on ${table} while nobody may write to it: create unique index concurrently, then add it`));
	return found;
}

function callsVolatile(expression: unknown): boolean {
	if (Array.isArray(expression)) return expression.some(callsVolatile);
	if (!isNode(expression)) return false;
	const called = field(expression, 'FuncCall');
	const name = called && text(field(list(called['funcname']).at(-1), 'String')?.['sval']);
	return (name !== undefined && name !== null && !STABLE.has(name)) || Object.values(expression).some(callsVolatile);
}

function addedConstraint(table: string, constraint: Node): Unsafe[] {
	switch (text(constraint['contype'])) {
		case 'CONSTR_CHECK':
		case 'CONSTR_FOREIGN':
		case 'CONSTR_NOTNULL':
			if (constraint['skip_validation']) return [];
			return [locks('constraint', `reads all of ${table} while nobody may write to it: add it not valid, then validate constraint`)];
		case 'CONSTR_UNIQUE':
		case 'CONSTR_PRIMARY':
			if (constraint['indexname']) return [];
			return [locks('unique', `builds an index on ${table} while nobody may write to it: create unique index concurrently, then add it using index`)];
		case 'CONSTR_EXCLUSION':
			return [locks('exclude', `builds an index on ${table} while nobody may write to it`)];
		default:
			return [];
	}
} // prettier-ignore

function breaks(rule: string, says: string): Unsafe {
	return { rule, harm: 'breaks', says };
}

function locks(rule: string, says: string): Unsafe {
	return { rule, harm: 'locks', says };
}

function hasOption(options: unknown, name: string): boolean {
	return list(options).some((one) => field(one, 'DefElem')?.['defname'] === name);
}

function nameOf(relation: unknown): string {
	if (!isNode(relation)) return 'it';
	const { schemaname, relname } = relation;
	return schemaname === undefined || schemaname === 'public' ? text(relname) : `${text(schemaname)}.${text(relname)}`;
}

/** `OBJECT_COLUMN` → column. */
function words(type: unknown): string {
	return text(type).replace(/^OBJECT_/, '').toLowerCase().replaceAll('_', ' '); // prettier-ignore
}

function text(value: unknown): string {
	return typeof value === 'string' ? value : '';
}

function list(value: unknown): Node[] {
	return Array.isArray(value) ? value.filter(isNode) : [];
}

function isNode(value: unknown): value is Node {
	return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function field(node: unknown, ...path: string[]): Node | null {
	let at: unknown = node;
	for (const key of path) at = isNode(at) ? at[key] : undefined;
	return isNode(at) ? at : null;
}
