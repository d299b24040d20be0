-- Secrets of apps. Values are encrypted under a key of their own, and that under the master key, which is not in here.

create table jibe.secret (
	app text not null,
	environment text not null,
	name text not null,
	version integer not null,
	-- AES-256-GCM: nonce, tag, text. Null once the version is revoked: nobody is to read it again.
	ciphertext bytea,
	wrapped bytea,
	-- Of the master key that `wrapped` needs.
	key_id text not null,
	created_at bigint not null,
	by text not null,
	-- Older versions are revoked as soon as nothing runs that has them.
	revokes_older boolean not null default false,
	revoked_at bigint,
	-- The whole secret was removed; its versions go on counting from here.
	removed_at bigint,
	primary key (app, environment, name, version)
);

-- Which master key is used, so that a wrong one is noticed before it is used.
create table jibe.master_key (
	id text primary key,
	created_at bigint not null,
	retired_at bigint
);
create unique index master_key_current on jibe.master_key ((true)) where retired_at is null;

-- Answers the version. Sent twice, it makes one.
create function jibe.set_secret(p jsonb) returns integer language plpgsql as $$
declare
	v_app text := p ->> 'app';
	v_environment text := p ->> 'environment';
	v_name text := p ->> 'name';
	v_at bigint := (p ->> 'at')::bigint;
	v_wrapped bytea := decode(p ->> 'wrapped', 'base64');
	v_detail jsonb;
	v_version integer;
begin
	lock table jibe.secret in share row exclusive mode;
	select version into v_version from jibe.secret
	where app = v_app and environment = v_environment and name = v_name and wrapped = v_wrapped;
	if found then
		return v_version;
	end if;
	select coalesce(max(version), 0) + 1 into v_version from jibe.secret
	where app = v_app and environment = v_environment and name = v_name;
	insert into jibe.secret (app, environment, name, version, ciphertext, wrapped, key_id, created_at, by, revokes_older)
	values (v_app, v_environment, v_name, v_version, decode(p ->> 'ciphertext', 'base64'), v_wrapped, p ->> 'keyId', v_at, p ->> 'by',
		(p ->> 'revokesOlder')::boolean);
	v_detail := jsonb_build_object('name', v_name, 'version', v_version);
	insert into jibe.audit (at, by, action, app, environment, detail) values (v_at, p ->> 'by', 'secret.set', v_app, v_environment, v_detail);
	perform jibe.publish(jsonb_build_array(jsonb_build_object(
		'at', v_at, 'type', 'secret.set', 'app', v_app, 'environment', v_environment, 'deployment', null, 'data', v_detail)));
	return v_version;
end $$;

-- Ends versions below `below` (all with null) that no run list needs any more. Answers those that it ended.
create function jibe.revoke_secret(p jsonb) returns jsonb language plpgsql as $$
declare
	v_app text := p ->> 'app';
	v_environment text := p ->> 'environment';
	v_name text := p ->> 'name';
	v_at bigint := (p ->> 'at')::bigint;
	v_removed boolean := (p ->> 'removed')::boolean;
	v_versions jsonb;
	v_detail jsonb;
begin
	lock table jibe.secret in share row exclusive mode;
	with ended as (
		update jibe.secret s
		set revoked_at = coalesce(revoked_at, v_at), ciphertext = null, wrapped = null, removed_at = case when v_removed then v_at end
		where app = v_app and environment = v_environment and name = v_name
			and (p ->> 'below' is null or version < (p ->> 'below')::integer)
			and (revoked_at is null or (v_removed and removed_at is null))
			and not exists (
				select from jibe.want w, jsonb_array_elements(w.run) one join jibe.release r on r.number = (one ->> 'release')::integer
				where w.app = v_app and w.environment = v_environment and r.app = v_app and not w.removed
					and (r.spec -> 'secrets' ->> v_name)::integer = s.version)
		returning version
	)
	select coalesce(jsonb_agg(version order by version), '[]') into v_versions from ended;
	if v_versions <> '[]' then
		v_detail := jsonb_build_object('name', v_name, 'versions', v_versions);
		insert into jibe.audit (at, by, action, app, environment, detail)
		values (v_at, p ->> 'by', case when v_removed then 'secret.removed' else 'secret.revoked' end, v_app, v_environment, v_detail);
		perform jibe.publish(jsonb_build_array(jsonb_build_object('at', v_at,
			'type', case when v_removed then 'secret.removed' else 'secret.revoked' end,
			'app', v_app, 'environment', v_environment, 'deployment', null, 'data', v_detail)));
	end if;
	return v_versions;
end $$;

-- From now on this master key seals. With `lost` the values that need another one are given up.
create function jibe.use_master_key(p jsonb) returns jsonb language plpgsql as $$
declare
	v_id text := p ->> 'id';
	v_at bigint := (p ->> 'at')::bigint;
	v_lost jsonb := '[]';
begin
	lock table jibe.master_key in share row exclusive mode;
	if p ->> 'instead' is distinct from (select id from jibe.master_key where retired_at is null)
		and v_id is distinct from (select id from jibe.master_key where retired_at is null) then
		return null;
	end if;
	if not exists (select from jibe.master_key where id = v_id and retired_at is null) then
		update jibe.master_key set retired_at = v_at where retired_at is null;
		insert into jibe.master_key (id, created_at) values (v_id, v_at) on conflict (id) do update set retired_at = null;
		insert into jibe.audit (at, by, action, app, environment, detail)
		values (v_at, p ->> 'by', 'master_key.used', null, null, jsonb_build_object('id', v_id, 'lost', p -> 'lost'));
	end if;
	if (p ->> 'lost')::boolean then
		with lost as (
			update jibe.secret set revoked_at = v_at, ciphertext = null, wrapped = null where key_id <> v_id and revoked_at is null
			returning app, environment, name
		)
		select coalesce(jsonb_agg(distinct jsonb_build_object('app', app, 'environment', environment, 'name', name)), '[]') into v_lost from lost;
	end if;
	return v_lost;
end $$;

create or replace function jibe.remove_app(p_app text, p_by text, p_at bigint) returns void language plpgsql as $$
begin
	update jibe.app set removed_at = p_at, read_only = null where name = p_app and removed_at is null;
	if not found then
		-- Removed before: the answer to that was lost, or somebody else was first.
		return;
	end if;
	delete from jibe.env where app = p_app;
	delete from jibe.secret where app = p_app;
	delete from jibe.blob where app = p_app;
	delete from jibe.manifest where app = p_app;
	delete from jibe.release where app = p_app;
	insert into jibe.audit (at, by, action, app, environment, detail) values (p_at, p_by, 'app.removed', p_app, null, '{}');
	perform jibe.publish(jsonb_build_array(jsonb_build_object(
		'at', p_at, 'type', 'app.removed', 'app', p_app, 'environment', null, 'deployment', null, 'data', '{}'::jsonb)));
end $$;
