import type { House } from '../house.ts';
import { Refusal } from '../ports.ts';

/** The row first: what is left of a mirror does no harm. @throws Refusal 404 */
export async function removeRepository(house: House, name: string, by: string): Promise<void> {
	if (!(await house.state.repositories.remove(name, by)))
		throw new Refusal('repository_unknown', 404, `there is no repository ${name}`, '"jibe repo list" shows them');
	await house.kept.forget(name);
}
