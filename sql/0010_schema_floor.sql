-- From which release on the data of an app's environment is as releases know it: set when `migrate.after` has contracted it.

create table jibe.schema_floor (
	app text not null references jibe.app (name),
	environment text not null,
	release integer not null,
	deployment text not null,
	at bigint not null,
	primary key (app, environment)
);

-- One step of a deployment that completes a migration: both in one transaction. A floor is never lowered.
create function jibe.advance_past_migration(p jsonb) returns jsonb language plpgsql as $$
declare
	v_floor integer := (p ->> 'floor')::integer;
begin
	insert into jibe.schema_floor as f (app, environment, release, deployment, at)
	select d.app, d.environment, v_floor, d.id, (p ->> 'at')::bigint from jibe.deployment d where d.id = p ->> 'deployment'
	on conflict (app, environment) do update set release = excluded.release, deployment = excluded.deployment, at = excluded.at
	where f.release < excluded.release;
	return jibe.advance(p);
end $$;
