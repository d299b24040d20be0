-- Results of steps, and what each run of a step was keyed by. Of one repository (scope) and one circle of trust (domain): what a
-- preview writes is never read by production, what a fork writes by nobody.

create table jibe.step_entry (
	scope text not null,
	domain text not null,
	-- Digest of `parts`.
	key text not null,
	-- Only these are found again; the others are there for whoever asks why.
	passed boolean not null,
	entry jsonb not null,
	parts jsonb not null,
	-- Digest of entry and parts, as they were written.
	seal text not null,
	created_at bigint not null,
	used_at bigint not null,
	primary key (scope, domain, key)
);
create index step_entry_by_use on jibe.step_entry (used_at);

create table jibe.step_run (
	app text not null,
	environment text not null,
	name text not null,
	deployment text not null,
	scope text not null,
	domain text not null,
	key text not null,
	parts jsonb not null,
	cached boolean not null,
	at bigint not null,
	primary key (app, environment, name, deployment)
);
create index step_run_by_time on jibe.step_run (at);
