-- Servers that joined, what they may join with, and where control is reached. Jibe's own CA signs who they are.

alter table jibe.installation
	add column ca_certificate text,
	add column ca_key text,
	-- Counts up with each change of whom a region may trust: an older list is not taken.
	add column servers_version integer not null default 1;

create table jibe.server (
	name text primary key,
	region text not null,
	roles text[] not null,
	labels text[] not null,
	-- Where the region's other servers reach it, and its listeners; null: it has none.
	host text not null,
	depot_port integer,
	agent_port integer,
	edge_port integer,
	-- sha256/<base64> of its public key: the only one that is believed to be this server's.
	spki text not null,
	joined_at bigint not null,
	certificate_expires bigint not null,
	draining boolean not null default false,
	-- Why nobody is believed to be this server until a person chooses (two machines had its identity), or null.
	conflict text,
	-- What it must show when it checks in next: two machines with one identity can't both have it.
	ticket text not null,
	-- The epoch of the last check-in: after a restore the tickets are older than those that servers hold.
	ticket_epoch integer not null,
	seen_at bigint not null,
	seen_from text not null,
	-- Kept, so that a server which was removed is told so.
	removed_at bigint
);

create table jibe.join_token (
	hash bytea primary key,
	region text not null,
	roles text[] not null,
	labels text[] not null,
	-- The server that may join with it, in the place of the one of that name; null: any new one.
	name text,
	created_at bigint not null,
	expires_at bigint not null,
	used_at bigint,
	used_by text,
	-- By whom it was used: a server whose answer was lost asks again.
	used_spki text
);

-- Where control is reached, as its replicas said when they were last there.
create table jibe.control_address (
	address text primary key,
	seen_at bigint not null
);

-- Regions of joined servers are not control's to retire.
create or replace function jibe.set_regions(p jsonb) returns void language sql as $$
	update jibe.region set retired = true
	where name not in (select name from jsonb_to_recordset(p) as r (name text))
		and name not in (select region from jibe.server where removed_at is null);
	insert into jibe.region (name, position, edge_port)
	select name, position, edge_port from jsonb_to_recordset(p) as r (name text, position integer, edge_port integer)
	on conflict (name) do update set position = excluded.position, edge_port = excluded.edge_port, retired = false
$$;
