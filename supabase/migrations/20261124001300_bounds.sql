-- How much a row may hold. Owners write straight through PostgREST too, so the limits of the API are not enough: a claim
-- gathers the rows of many users in one answer, and one that nobody can read would stop the checks of all.

-- Twice what the API takes, which says it better; no deeper than a parser likes; and no number of a thousand digits, which
-- is short to send (1e5000) and long to read. Depth comes first: ten thousand levels in the paths below end the server.
create function private.is_plain_config(config jsonb) returns boolean
language sql immutable parallel safe set search_path = '' as $$
  select case
    when jsonb_typeof(config) <> 'object' or jsonb_path_exists(config, '$.**{10 to last}') then false
    else octet_length(config::text) <= 32768 and not jsonb_path_exists(config,
      '$.** ? (@.type() == "number" && (@ > 1000000000000000 || @ < -1000000000000000))')
  end;
$$;
comment on function private.is_plain_config(jsonb) is
  'True of an object that is small, at most ten levels deep, and whose numbers every parser can read.';
revoke execute on function private.is_plain_config(jsonb) from public;
grant execute on function private.is_plain_config(jsonb) to authenticated, service_role;

create or replace function private.has_secret_key(config jsonb) returns boolean
language sql immutable parallel safe set search_path = '' as $$
  select case
    when jsonb_path_exists(config, '$.**{10 to last}') then true
    else jsonb_path_exists(
      config,
      '$.** ? (@.type() == "object").keyvalue() ? (@.key like_regex
        "(token|secret|password|passwd|passphrase|authorization|api[-_]?key|access[-_]?key|private[-_]?key|signing[-_]?key|credentials?|cookie)$" flag "i")'
    )
  end;
$$;
comment on function private.has_secret_key(jsonb) is
  'True if any key looks like a secret, or stands deeper than ten levels: those belong in integration_credentials, sealed.';

-- A row that breaks the rule leads nowhere, and stops the sweep: its owner has to fill in the form again.
update public.user_integrations set connection_config = '{}' where not private.is_plain_config(connection_config);
alter table public.user_integrations
  drop constraint user_integrations_connection_config_check,
  add constraint user_integrations_plain check (private.is_plain_config(connection_config));

delete from public.idempotency_keys
where jsonb_typeof(response) <> 'object' or octet_length(response::text) > 524288;
alter table public.idempotency_keys
  add constraint idempotency_keys_plain check (
    jsonb_typeof(response) = 'object' and octet_length(response::text) <= 524288
  );

-- Years that every calendar can compute with.
update public.integration_credentials set expires_at = null
where expires_at not between '2000-01-01 00:00+00' and '9000-01-01 00:00+00';
alter table public.integration_credentials
  add constraint integration_credentials_sane_expiry check (
    expires_at between '2000-01-01 00:00+00' and '9000-01-01 00:00+00'
  );

-- A request bounds what it brings; this bounds what many requests pile up. Tokens that were renewed are let through: what
-- the token endpoint gave once, it gives to nobody again.
create function private.bound_credentials() returns trigger
language plpgsql set search_path = '' as $$
begin
  if (select count(*) > 40 or sum(octet_length(encrypted_value)) > 262144 from public.integration_credentials
      where user_integration_id = new.user_integration_id) then
    raise exception 'too_many_credentials' using errcode = 'PT422';
  end if;
  return null;
end $$;
revoke execute on function private.bound_credentials() from public;
create trigger bound_credentials after insert or update of last_rotated_at on public.integration_credentials
  for each row when (new.refreshed_at is null or new.refreshed_at < new.last_rotated_at)
  execute function private.bound_credentials();

-- So many that nobody who connects things of their own comes near; the look-up reads one index, and stops there. And none
-- for whoever has not said who they are: the API refuses anonymous sign-ins, which a project may allow for other things.
create function private.bound_integrations() returns trigger
language plpgsql set search_path = '' as $$
begin
  if nullif(current_setting('request.jwt.claims', true), '')::jsonb->>'is_anonymous' = 'true' then
    raise exception 'anonymous sign-ins have no integrations' using errcode = '42501';
  end if;
  -- A retired type stays for those who use it, and is nobody's to begin with.
  if current_user = 'authenticated' and exists (
    select from added join public.integration_types t on t.id = added.integration_type_id where not t.is_active
  ) then
    raise exception 'this integration type is retired' using errcode = '42501';
  end if;
  if exists (
    select from (select distinct user_id from added) owner
    where exists (select from public.user_integrations i where i.user_id = owner.user_id offset 50000)
  ) then
    raise exception 'too_many_integrations' using errcode = 'PT422';
  end if;
  return null;
end $$;
revoke execute on function private.bound_integrations() from public;
create trigger bound_integrations after insert on public.user_integrations
  referencing new table as added for each statement execute function private.bound_integrations();

-- A request of a client writes a hundred rows at most: each is logged and checked anew, and locked until all are done.
create function private.bound_request() returns trigger
language plpgsql set search_path = '' as $$
declare
  written integer := coalesce(nullif(current_setting('private.rows_written', true), ''), '0')::integer + 1;
begin
  if written > 100 then
    raise exception 'too_many_at_once' using errcode = 'PT422';
  end if;
  perform set_config('private.rows_written', written::text, true);
  return new;
end $$;
revoke execute on function private.bound_request() from public;
create trigger bound_request before insert or update of name, connection_config, auth_method on public.user_integrations
  for each row when (current_user = 'authenticated') execute function private.bound_request();
create trigger bound_request before insert on public.idempotency_keys
  for each row when (current_user = 'authenticated') execute function private.bound_request();

-- Answers are kept for a day. One user's are 2,000 at most, of 16 MiB together.
create function private.bound_answers() returns trigger
language plpgsql set search_path = '' as $$
begin
  if (select count(*) > 2000 or sum(pg_column_size(response)) > 16777216 from public.idempotency_keys
      where user_id = new.user_id) then
    raise exception 'too_many_keys' using errcode = 'PT422';
  end if;
  return null;
end $$;
revoke execute on function private.bound_answers() from public;
create trigger bound_answers after insert on public.idempotency_keys
  for each row execute function private.bound_answers();

-- Whoever asks PostgREST for rows within rows within rows holds one of its few connections for so long, and no longer.
-- Nothing that the API asks takes a tenth of it. Where roles are not ours to alter, the project's own limit stands.
do $$
begin
  alter role anon set statement_timeout = '3s';
  alter role authenticated set statement_timeout = '3s';
exception when insufficient_privilege or undefined_object then
  raise notice 'statement_timeout stays as it is';
end $$;
