/** The versions of wants that an event of the database tells of. */
export function writtenBy(type: string, data: Record<string, unknown>): { region: string; epoch: number; version: number }[] {
	if (type === 'pointer.written') return [data as { region: string; epoch: number; version: number }];
	if (type === 'runs.written') return data['wants'] as { region: string; epoch: number; version: number }[];
	return [];
}
