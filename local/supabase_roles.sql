-- Run at every start: before the migrations, which find what they find on hosted Supabase, and after them, for what
-- they have made. lite then connects as PostgREST does there: as `authenticator`, who owns what lite keeps for itself
-- and nothing of ours.
--
-- Why: with its first request lite grants everything in every schema that has row level security to anon,
-- authenticated and service_role, and so undoes what the migrations revoked. From a role that may not grant, but has
-- some privilege, Postgres answers that with a warning and grants nothing.

do $$
declare
  name text;
begin
  foreach name in array array['anon', 'authenticated', 'service_role', 'authenticator'] loop
    if not exists (select from pg_roles where rolname = name) then
      execute format('create role %I', name);
    end if;
  end loop;
end $$;
alter role service_role bypassrls;
alter role authenticator login noinherit password '{password}';
grant anon, authenticated, service_role to authenticator;

-- On hosted Supabase too whatever a migration creates is open to everybody until it revokes.
alter default privileges in schema public grant all on tables to anon, authenticated, service_role;
alter default privileges in schema public grant all on functions to anon, authenticated, service_role;
alter default privileges in schema public grant all on sequences to anon, authenticated, service_role;

create schema if not exists auth;
-- As hosted: without it a function that runs as its caller could not ask auth.uid().
grant usage on schema auth to anon, authenticated, service_role;

do $$
declare
  mine record;
begin
  execute format('grant create on database %I to authenticator', current_database());
  for mine in
    select format('schema %s', oid::regnamespace) as thing from pg_namespace where nspname in ('auth', 'supabase_migrations')
    union all
    select format('table %s', oid::regclass) from pg_class
    where relkind in ('r', 'p') and relnamespace::regnamespace::text in ('auth', 'supabase_migrations')
    union all
    select format('routine %s', oid::regprocedure) from pg_proc where pronamespace = 'auth'::regnamespace
  loop
    execute format('alter %s owner to authenticator', mine.thing);
  end loop;
  for mine in select distinct relnamespace::regnamespace as schema from pg_class where relrowsecurity loop
    execute format('grant usage on schema %s to authenticator', mine.schema);
    execute format('grant references on all tables in schema %s to authenticator', mine.schema);
    execute format('grant usage on all sequences in schema %s to authenticator', mine.schema);
  end loop;
end $$;
