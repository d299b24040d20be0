-- Commands that ask a person with a browser for a token of their own.

-- `hash` is that of the token which it becomes: its secret stays with the command that made it.
create table jibe.sign_in (
	token text primary key,
	code text not null unique,
	hash bytea not null,
	machine text not null,
	address text not null,
	expires_at bigint not null,
	denied boolean not null default false
);

-- Whose token allowed it, and takes it along when it is revoked.
alter table jibe.token add column parent text references jibe.token (id);
