import { doctorAnswer } from '#wire/api.ts';
import { controlFindings, serverCheckups } from '../checkup.ts';
import type { House } from '../house.ts';
import { route, type Route } from '../route.ts';

export function doctorRoutes(house: House, settings: { version: string; certFile?: string | undefined }): Route[] {
	return [
		route({
			method: 'GET',
			path: '/api/v1/doctor',
			summary: 'What control finds wrong with what it stands on, and what is known of every server.',
			role: 'admin',
			answer: doctorAnswer,
			async handle() {
				return { findings: await controlFindings(house, settings), servers: serverCheckups(house, settings.version) };
			},
		}),
	];
}
