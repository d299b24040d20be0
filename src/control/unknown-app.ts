import { nearest } from '#wire/nearest.ts';
import { sees, type Caller } from './access.ts';
import type { House } from './house.ts';
import { Refusal } from './ports.ts';

/** A word that is no app here is most often a slip: the refusal says what it may have been. Only apps that the token may see are named. */
export async function refuseUnknown(house: House, { token }: Pick<Caller, 'token'>, app: string, environment?: string): Promise<void> {
	const rows = await house.state.apps.list();
	const known = rows.find((row) => row.app === app);
	if (!known)
		throw noSuchApp(
			app,
			rows.map((row) => row.app).filter((name) => sees(token, name)),
		);
	if (environment === undefined || known.environments.includes(environment)) return;
	const there = known.environments.join(', ');
	throw new Refusal(
		'app_unknown',
		404,
		`${app} was never deployed in ${environment}`,
		there === '' ? 'deploy first: `jibe deploy`' : `it is in ${there}`,
	);
}

function noSuchApp(app: string, others: readonly string[]): Refusal {
	const near = nearest(app, others);
	const hint = near === null ? '"jibe app list" shows what there is' : `did you mean ${near}? "jibe app list" shows what there is`;
	return new Refusal('app_unknown', 404, `there is no app ${app}`, hint);
}
