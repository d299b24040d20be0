create table if not exists note (
	id integer primary key autoincrement,
	title text not null,
	text text not null,
	tags text not null default '[]',
	changed_at text not null default (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
) strict;
