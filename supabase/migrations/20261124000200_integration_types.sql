-- array_to_string is only "stable" because of element types whose text form depends on settings; text has none.
create function private.joined(parts text[]) returns text
language sql immutable strict parallel safe set search_path = '' as $$
  select array_to_string(parts, ' ');
$$;
revoke execute on function private.joined(text[]) from public;
grant execute on function private.joined(text[]) to service_role;

create table public.integration_types (
  id uuid primary key default gen_random_uuid(),
  name text not null check (char_length(name) between 1 and 100),
  slug text not null unique check (slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$' and char_length(slug) <= 63),
  type text not null check (type in ('mcp', 'vendor', 'custom')),
  category text not null check (char_length(category) between 1 and 63),
  description text not null default '' check (char_length(description) <= 1000),
  icon_type text,
  is_active boolean not null default true,
  config_schema jsonb not null default '{}' check (jsonb_typeof(config_schema) = 'object'),
  tags text[] not null default '{}',
  auth_methods text[] not null default '{}' check (
    auth_methods <@ array['api_key', 'oauth', 'jwt', 'basic', 'certificate', 'ssh_key', 'none']
  ),
  definition jsonb not null default '{}' check (jsonb_typeof(definition) = 'object'),
  source text not null default 'custom' check (source in ('builtin', 'community', 'custom')),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  -- Three widths, each with an index and statistics of its own, so that a search takes the best matches and stops;
  -- and a text for typing errors.
  -- "simple" keeps words as they stand, so that "Sentry" is found by "sentr"; "english" adds the stems of sentences.
  search_name tsvector not null generated always as (to_tsvector('pg_catalog.simple', name)) stored,
  search_tags tsvector not null generated always as (
    to_tsvector('pg_catalog.simple', name || ' ' || slug || ' ' || private.joined(tags) || ' ' || category)
  ) stored,
  search tsvector not null generated always as (
    to_tsvector(
      'pg_catalog.simple', name || ' ' || slug || ' ' || private.joined(tags) || ' ' || category || ' ' || description
    ) || to_tsvector('pg_catalog.english', description)
  ) stored,
  search_typos text not null generated always as (lower(name || ' ' || private.joined(tags))) stored
);
comment on table public.integration_types is
  'The catalogue: one row is one MCP server or vendor API that can be connected. Compiled from catalogue/ into seed.sql.';
comment on column public.integration_types.definition is
  'How to connect and verify (catalogue/schema.json). Empty for rows inserted by plain SQL: these work from the connection config alone.';

create index integration_types_by_name on public.integration_types (lower(name), id);
create index integration_types_by_name_start on public.integration_types (lower(name) text_pattern_ops);
create index integration_types_search_name on public.integration_types using gin (search_name);
create index integration_types_search_tags on public.integration_types using gin (search_tags);
create index integration_types_search on public.integration_types using gin (search);
create index integration_types_typos on public.integration_types using gin (search_typos extensions.gin_trgm_ops);

create trigger touch_updated_at before update on public.integration_types
  for each row execute function private.touch_updated_at();

alter table public.integration_types enable row level security;
revoke all on public.integration_types from anon, authenticated, service_role;
grant select on public.integration_types to anon, authenticated;
grant select, insert, update, delete on public.integration_types to service_role;
-- Signed-in users also read the retired types of their own integrations: that policy comes with the next migration.
create policy "visitors read the active types" on public.integration_types
  for select to anon using (is_active);
