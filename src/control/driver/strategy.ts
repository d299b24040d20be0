import { planDeploy, planWarmRollback, PlanError, type Plan, type PlanInput, type Strategy } from '#rollout/plan.ts';
import { durationMs, type AppConfig } from '#wire/config.ts';
import { Refusal } from '../ports.ts';
import { tasksOf } from './tasks.ts';

/** The plan that a release's configuration asks for. @throws Refusal */
export function deployPlan(config: AppConfig, installed: readonly string[]): Plan {
	return refusing(() => planDeploy({ ...planInput(config, installed), tasks: tasksOf(config) }));
}

/** The same for a release of the past: a region that has gone since must not stop a rollback. */
export function rollbackPlan(config: AppConfig, installed: readonly string[], warm: boolean): Plan {
	const input = { ...planInput({ ...config, regions: 'all' }, installed), regions: regionsLeft(config, installed) };
	return refusing(() => (warm ? planWarmRollback(input) : planDeploy(input)));
}

export function regionsLeft(config: AppConfig, installed: readonly string[]): string[] {
	return config.regions === 'all' ? [...installed] : config.regions.filter((region) => installed.includes(region));
}

function regionsOf(config: AppConfig, installed: readonly string[]): string[] {
	if (config.regions === 'all') return [...installed];
	const unknown = config.regions.filter((region) => !installed.includes(region));
	if (unknown.length > 0) {
		throw new Refusal(
			'unknown_region',
			422,
			`this installation has no region ${unknown.join(', ')}`,
			`it has ${installed.join(', ')}; correct "regions" in jibe.json or --regions`,
		);
	}
	return [...config.regions];
}

function planInput(config: AppConfig, installed: readonly string[]): PlanInput {
	return {
		strategy: strategyOf(config),
		regions: regionsOf(config, installed),
		instances: config.instances,
		keepWarm: config.warm !== 'off',
		strict: config.health !== undefined,
	};
}

function strategyOf({ strategy }: AppConfig): Strategy {
	const { type, watch, minRegions } = strategy;
	const common = { watchMs: durationMs(watch), ...(minRegions === undefined ? {} : { minRegions }) };
	switch (strategy.type) {
		case 'walk':
			return { type: 'walk', ...common, ...(strategy.waves ? { waves: strategy.waves } : {}) };
		case 'canary':
			return {
				type: 'canary',
				...common,
				...(strategy.waves ? { waves: strategy.waves } : {}),
				ramp: strategy.ramp,
				windowMs: durationMs(strategy.window),
				onWindowEnd: strategy.onWindowEnd,
			};
		case 'blue-green':
		case 'rolling':
			return { type: type as 'blue-green' | 'rolling', ...common };
	}
}

function refusing(plan: () => Plan): Plan {
	try {
		return plan();
	} catch (error) {
		if (error instanceof PlanError) throw new Refusal(error.code, 422, error.message);
		throw error;
	}
}
