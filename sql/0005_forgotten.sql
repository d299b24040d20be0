-- What is remembered of removed apps goes after a while: the rows that tell every region to forget them. What must not be
-- forgotten is how far their versions had come, or else an app of the same name would begin below what a region knows.

alter table jibe.app add column forgotten_version integer not null default 0;

-- Only a row that is new begins with version 1.
create function jibe.begin_want() returns trigger language plpgsql as $$
begin
	new.version := 1 + coalesce((select forgotten_version from jibe.app where name = new.app), 0);
	return new;
end $$;

create trigger want_begins before insert on jibe.want for each row when (new.version = 1) execute function jibe.begin_want();

create function jibe.forget_removed(p_before bigint) returns bigint language sql as $$
	with forgotten as (
		delete from jibe.want w using jibe.app a
		where w.app = a.name and w.removed and a.removed_at < p_before
		returning w.app, w.version
	), noted as (
		update jibe.app a set forgotten_version = greatest(a.forgotten_version, f.version)
		from (select app, max(version) as version from forgotten group by app) f where a.name = f.app
		returning 1
	)
	select count(*) from forgotten, (select count(*) from noted) as done
$$;
