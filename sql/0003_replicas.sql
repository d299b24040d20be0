-- Several control processes on one database: who lives, who drives what, and what the others must hear of.

create sequence jibe.replica_lock as integer;
create table jibe.replica (
	id text primary key,
	-- With 7104303 the key of the advisory lock that its session holds for as long as it lives. Held before the row is there.
	lock integer not null unique,
	-- Where it is reached: by people and programs elsewhere, and by its peers.
	addresses jsonb not null,
	-- Of the machine and directory that it runs in.
	home text not null,
	version text not null,
	started_at bigint not null,
	-- By PostgreSQL's clock.
	seen_at timestamptz not null default clock_timestamp(),
	-- Counts how often it has said so. It has to name the count that it was answered the last time: one that is heard, and
	-- hears nothing any more, is as good as dead.
	beat integer not null default 0
);

-- A local region belongs to the directory of the control that runs it: another one's list does not retire it.
alter table jibe.region add column home text;

create function jibe.join_replica(p jsonb) returns void language plpgsql as $$
begin
	insert into jibe.replica (id, lock, addresses, home, version, started_at)
	values (p ->> 'id', (p ->> 'lock')::integer, p -> 'addresses', p ->> 'home', p ->> 'version', (p ->> 'at')::bigint)
	on conflict (id) do update set seen_at = clock_timestamp(), lock = excluded.lock, addresses = excluded.addresses;
	perform jibe.publish(jsonb_build_array(jsonb_build_object(
		'at', p -> 'at', 'type', 'replica.up', 'app', null, 'environment', null, 'deployment', null,
		'data', jsonb_build_object('replica', p ->> 'id', 'home', p ->> 'home'))));
end $$;

-- All replicas, and for how long each has been silent. With `p_beat` that one says that it lives.
create function jibe.look_at_replicas(p_beat text, p_known integer) returns jsonb language plpgsql as $$
begin
	if p_beat is not null then
		update jibe.replica set seen_at = clock_timestamp(), beat = beat + 1 where id = p_beat and beat = p_known;
	end if;
	return (
		select coalesce(jsonb_agg(jsonb_build_object(
			'id', id, 'lock', lock, 'beat', beat, 'addresses', addresses, 'home', home, 'version', version, 'startedAt', started_at,
			'silentMs', greatest(0, floor(extract(epoch from clock_timestamp() - seen_at) * 1000))) order by started_at, id), '[]')
		from jibe.replica);
end $$;

-- It stopped, or another one has found it dead and taken over what it drove.
create function jibe.leave_replica(p_id text, p_by text, p_at bigint) returns void language plpgsql as $$
begin
	delete from jibe.replica where id = p_id;
	if found then
		perform jibe.publish(jsonb_build_array(jsonb_build_object(
			'at', p_at, 'type', 'replica.gone', 'app', null, 'environment', null, 'deployment', null,
			'data', jsonb_build_object('replica', p_id, 'by', p_by))));
	end if;
end $$;

-- Ends the session that holds a replica's lock: it hangs, and its lock would never be free. Without the right to, nothing happens.
create function jibe.cut_replica(p_lock integer) returns boolean language plpgsql as $$
begin
	return coalesce((
		select bool_or(pg_terminate_backend(pid)) from pg_locks
		where locktype = 'advisory' and classid = 7104303 and objid = p_lock::oid and objsubid = 2 and granted
			and database = (select oid from pg_database where datname = current_database())), false);
exception when insufficient_privilege then
	return false;
end $$;

-- Who drives what: the owners of all that is open in an app's environment, and of what was last Deployed there.
create function jibe.lanes(p_app text, p_environment text) returns jsonb language sql stable as $$
	with lane as (
		select distinct app, environment from (
			select app, environment from jibe.want where not removed
			union all
			select app, environment from jibe.deployment where ended_at is null or watch_until is not null) as any_of
		where (p_app is null or app = p_app) and (p_environment is null or environment = p_environment)
	)
	select coalesce(jsonb_agg(jsonb_build_object('app', lane.app, 'environment', lane.environment, 'owners', (
		select coalesce(jsonb_agg(distinct owner), '[]') from (
			select d.owner from jibe.deployment d
			where d.app = lane.app and d.environment = lane.environment and (d.ended_at is null or d.watch_until is not null)
			union all
			(select d.owner from jibe.deployment d
			where d.app = lane.app and d.environment = lane.environment and d.state = 'Deployed'
			order by d.ended_at desc limit 1)) as driven))), '[]')
	from lane
$$;
create index deployment_live on jibe.deployment (app, environment, ended_at desc) where state = 'Deployed';

-- Unasked a process takes only from whom it knows to be gone, and what is its own: two must not take it in turns.
create function jibe.take_over(p_id text, p_owner text, p_from text[]) returns jsonb language plpgsql as $$
declare
	d jibe.deployment;
begin
	update jibe.deployment set fence = fence + 1, owner = p_owner, request = null
	where id = p_id and (p_from is null or owner = any (p_from)) returning * into d;
	if not found then
		select * into d from jibe.deployment where id = p_id;
		if not found then
			perform jibe.refuse('unknown', format('there is no deployment %s', p_id));
		end if;
		perform jibe.refuse('fenced', format('%s was taken over by %s', d.id, d.owner));
	end if;
	return jibe.held_json(d, '[]');
end $$;

-- As before, and what only changes a run list is published too: the other replicas tell the regions they are connected with.
create or replace function jibe.write_wants(
	p_app text, p_environment text, p_deployment text, p_removed boolean, p_at bigint, p_request text, p_writes jsonb)
returns jsonb language plpgsql as $$
declare
	v_epoch integer;
	v_read_only text;
	v_answer jsonb;
begin
	if coalesce(jsonb_array_length(p_writes), 0) = 0 then
		return '{"wants": [], "events": []}';
	end if;
	select epoch into v_epoch from jibe.installation;
	select read_only into v_read_only from jibe.app where name = p_app;
	if v_read_only is not null then
		perform jibe.refuse('read_only', v_read_only);
	end if;
	with write as (
		select * from jsonb_to_recordset(p_writes) as w (region text, epoch integer, version integer, pointer jsonb, run jsonb)
	), before as materialized (
		select w.* from jibe.want w join write using (region) where w.app = p_app and w.environment = p_environment for update of w
	), written as (
		insert into jibe.want as w (app, environment, region, epoch, version, deployment, pointer, run, removed, request)
		select p_app, p_environment, write.region, v_epoch, coalesce(before.version, 0) + 1, p_deployment, write.pointer, write.run, p_removed, p_request
		from write left join before using (region)
		where before.epoch is not distinct from write.epoch and before.version is not distinct from write.version
		order by write.region
		on conflict (app, environment, region) do update
		set epoch = excluded.epoch, version = excluded.version, deployment = excluded.deployment,
			pointer = excluded.pointer, run = excluded.run, removed = excluded.removed, request = excluded.request
		-- A row that another transaction inserted meanwhile was not what this one was decided on.
		where w.version = excluded.version - 1
		returning w.*
	)
	select jsonb_build_object(
		'wants', coalesce(jsonb_agg(jibe.want_json(written) order by region), '[]'),
		'events', coalesce(jsonb_agg(jsonb_build_object(
			'at', p_at, 'type', 'pointer.written', 'app', p_app, 'environment', p_environment, 'deployment', p_deployment,
			'data', jsonb_build_object('region', written.region, 'epoch', written.epoch, 'version', written.version, 'pointer', written.pointer)))
			filter (where before.pointer is distinct from written.pointer), '[]'))
	into v_answer
	from written left join before using (region);
	if jsonb_array_length(v_answer -> 'wants') < jsonb_array_length(p_writes) then
		perform jibe.refuse('stale', format('the pointer of %s/%s in at least one region is not what this was decided on', p_app, p_environment));
	end if;
	if v_answer -> 'wants' <> '[]' and jsonb_array_length(v_answer -> 'events') < jsonb_array_length(v_answer -> 'wants') then
		v_answer := jsonb_set(v_answer, '{events}', v_answer -> 'events' || jsonb_build_object(
			'at', p_at, 'type', 'runs.written', 'app', p_app, 'environment', p_environment, 'deployment', p_deployment,
			'data', jsonb_build_object('wants', (
				select jsonb_agg(jsonb_build_object('region', w -> 'region', 'epoch', w -> 'epoch', 'version', w -> 'version'))
				from jsonb_array_elements(v_answer -> 'wants') w))));
	end if;
	return v_answer;
end $$;

-- Above all that a region is known to hold. Where the database was set back the releases of the last deployments may be lost
-- with their numbers, while servers still have files of them: numbers go on far enough beyond.
create function jibe.raise_epoch_above(p_by text, p_at bigint, p_timeline text, p_above integer, p_lost boolean) returns integer language plpgsql as $$
declare
	v_epoch integer;
begin
	update jibe.installation set epoch = greatest(epoch, p_above) + 1, timeline = coalesce(p_timeline, timeline) returning epoch into v_epoch;
	if p_lost then
		update jibe.app set last_release = last_release + 100 where last_release > 0;
	end if;
	insert into jibe.audit (at, by, action, app, environment, detail)
	values (p_at, p_by, 'epoch.raised', null, null, jsonb_build_object('epoch', v_epoch));
	perform jibe.publish(jsonb_build_array(jsonb_build_object(
		'at', p_at, 'type', 'epoch.raised', 'app', null, 'environment', null, 'deployment', null, 'data', jsonb_build_object('epoch', v_epoch))));
	return v_epoch;
end $$;

-- From now on nothing of the app may be written, by no replica; null lifts that. An app that the database has lost is named again.
create function jibe.set_read_only(p_app text, p_reason text, p_by text, p_at bigint) returns void language plpgsql as $$
begin
	if p_reason is null then
		update jibe.app set read_only = null where name = p_app;
	else
		insert into jibe.app (name, created_at, read_only) values (p_app, p_at, p_reason)
		on conflict (name) do update set read_only = excluded.read_only;
	end if;
	insert into jibe.audit (at, by, action, app, environment, detail)
	values (p_at, p_by, 'app.read_only', p_app, null, jsonb_build_object('reason', p_reason));
	perform jibe.publish(jsonb_build_array(jsonb_build_object(
		'at', p_at, 'type', 'app.read_only', 'app', p_app, 'environment', null, 'deployment', null, 'data', jsonb_build_object('reason', p_reason))));
end $$;

-- A region knew more of an app than this database: what was decided to hold is written in a new epoch, with the releases
-- that only the regions remember. `p`: see Recovery in src/state/state.ts.
create function jibe.recover_app(p jsonb, p_pins bytea[]) returns jsonb language plpgsql as $$
declare
	v_app text := p ->> 'app';
	v_at bigint := (p ->> 'at')::bigint;
	v_epoch integer;
	v_one jsonb;
	v_written jsonb;
	v_wants jsonb := '[]';
	v_events jsonb := '[]';
	v_i integer := 0;
begin
	v_epoch := jibe.raise_epoch_above(p ->> 'by', v_at, null, (p ->> 'above')::integer, false);
	insert into jibe.app as x (name, created_at, last_release) values (v_app, v_at, (p ->> 'lastRelease')::integer)
	on conflict (name) do update set read_only = null, last_release = greatest(x.last_release, excluded.last_release);
	for v_one in select * from jsonb_array_elements(p -> 'releases') loop
		v_i := v_i + 1;
		insert into jibe.release (app, number, environment, deployment, artifact, vendor, config, spec, pins, git, created_at)
		values (v_app, (v_one ->> 'number')::integer, v_one ->> 'environment', v_one ->> 'deployment', v_one ->> 'artifact', v_one ->> 'vendor',
			v_one -> 'config', v_one -> 'spec', p_pins[v_i], null, v_at)
		on conflict do nothing;
	end loop;
	for v_one in select * from jsonb_array_elements(p -> 'environments') loop
		v_written := jibe.write_wants(v_app, v_one ->> 'environment', null, (v_one -> 'removed')::boolean, v_at, null, v_one -> 'writes');
		v_wants := v_wants || (v_written -> 'wants');
		v_events := v_events || (v_written -> 'events');
	end loop;
	insert into jibe.audit (at, by, action, app, environment, detail)
	values (v_at, p ->> 'by', 'app.recovered', v_app, null, jsonb_build_object('epoch', v_epoch, 'took', p -> 'took'));
	perform jibe.publish(v_events || jsonb_build_array(jsonb_build_object(
		'at', v_at, 'type', 'app.recovered', 'app', v_app, 'environment', null, 'deployment', null,
		'data', jsonb_build_object('epoch', v_epoch, 'took', p -> 'took'))));
	return jsonb_build_object('epoch', v_epoch, 'wants', v_wants);
end $$;

-- These are the local regions of the control that lives there. Those of others, and of joined servers, are not its to retire.
create function jibe.set_local_regions(p jsonb, p_home text) returns void language sql as $$
	update jibe.region set retired = true
	where name not in (select name from jsonb_to_recordset(p) as r (name text))
		and name not in (select region from jibe.server where removed_at is null)
		and (home is null or home = p_home);
	insert into jibe.region (name, position, edge_port, home)
	select name, position, edge_port, p_home from jsonb_to_recordset(p) as r (name text, position integer, edge_port integer)
	on conflict (name) do update set position = excluded.position, edge_port = excluded.edge_port, retired = false, home = excluded.home
$$;
