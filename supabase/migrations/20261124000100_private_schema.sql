-- What no API looks at lives in `private`: helpers, partitions, the sweep's bookkeeping.
create schema private;
revoke all on schema private from public;
grant usage on schema private to authenticated, service_role;

-- Hosted Supabase has both already; a bare Postgres and lite have neither.
create schema if not exists extensions;
grant usage on schema extensions to anon, authenticated, service_role;
create extension if not exists pg_trgm with schema extensions;

-- The same rule as SECRET_KEY_PATTERN in chalicelib/services/endpoints.py; a test holds the two together.
create function private.has_secret_key(config jsonb) returns boolean
language sql immutable parallel safe set search_path = '' as $$
  select jsonb_path_exists(
    config,
    '$.** ? (@.type() == "object").keyvalue() ? (@.key like_regex
      "(token|secret|password|passwd|passphrase|authorization|api[-_]?key|access[-_]?key|private[-_]?key|signing[-_]?key|credentials?|cookie)$" flag "i")'
  );
$$;
comment on function private.has_secret_key(jsonb) is
  'True if any key at any depth looks like a secret: those belong in integration_credentials, sealed.';
revoke execute on function private.has_secret_key(jsonb) from public;
grant execute on function private.has_secret_key(jsonb) to authenticated, service_role;

create function private.touch_updated_at() returns trigger
language plpgsql set search_path = '' as $$
begin
  new.updated_at := now();
  return new;
end $$;
revoke execute on function private.touch_updated_at() from public;
