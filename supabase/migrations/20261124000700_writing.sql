-- What the API writes. Functions run as whoever calls them: a signed-in user gets as far as the grants on the tables
-- go, and only the service reaches ciphertext and history. Every statement carries the owner's id.
-- JSON arguments are text: one local stack encodes jsonb arguments twice.

create table public.idempotency_keys (
  user_id uuid not null default auth.uid() references auth.users (id) on delete cascade,
  key text not null check (char_length(key) between 1 and 255),
  fingerprint text not null check (char_length(fingerprint) <= 128),
  response jsonb not null,
  created_at timestamptz not null default now(),
  primary key (user_id, key)
);
comment on table public.idempotency_keys is
  'One row is the answer to a creation, repeated for 24 hours to whoever sends the same key and body.';
create index idempotency_keys_old on public.idempotency_keys (created_at);
alter table public.idempotency_keys enable row level security;
revoke all on public.idempotency_keys from anon, authenticated, service_role;
-- Forging a row only changes what its own forger is told.
grant select, insert (user_id, key, fingerprint, response), delete on public.idempotency_keys to authenticated;
grant select, insert, delete on public.idempotency_keys to service_role;
create policy "owners read their answers" on public.idempotency_keys
  for select to authenticated using ((select auth.uid()) = user_id);
create policy "owners keep answers of their own" on public.idempotency_keys
  for insert to authenticated with check ((select auth.uid()) = user_id);
create policy "owners forget their old answers" on public.idempotency_keys
  for delete to authenticated using ((select auth.uid()) = user_id and created_at < now() - interval '24 hours');

create table private.test_budgets (
  user_id uuid primary key references auth.users (id) on delete cascade,
  minute timestamptz not null,
  minute_used integer not null,
  day timestamptz not null,
  day_used integer not null
);
comment on table private.test_budgets is 'One row counts a user''s tests in the current minute and day: the test button is no port scanner.';

-- Counts one test; raises PT429 with the seconds to wait as detail. Others' budgets are out of reach: a signed-in
-- caller always spends their own.
create function private.spend_test(p_user_id uuid, p_per_minute integer, p_per_day integer) returns void
language plpgsql security definer set search_path = '' set timezone = 'UTC' as $$
declare
  spender uuid := coalesce(auth.uid(), p_user_id);
  this_minute timestamptz := date_trunc('minute', now());
  today timestamptz := date_trunc('day', now());
  spent private.test_budgets;
begin
  insert into private.test_budgets as b (user_id, minute, minute_used, day, day_used)
  values (spender, this_minute, 1, today, 1)
  on conflict (user_id) do update set
    minute = this_minute,
    minute_used = case when b.minute = this_minute then b.minute_used else 0 end + 1,
    day = today,
    day_used = case when b.day = today then b.day_used else 0 end + 1
  returning * into spent;
  if spent.day_used > p_per_day then
    raise exception 'tests_per_day' using errcode = 'PT429',
      detail = ceil(extract(epoch from today + interval '1 day' - now()))::text;
  elsif spent.minute_used > p_per_minute then
    raise exception 'tests_per_minute' using errcode = 'PT429',
      detail = ceil(extract(epoch from this_minute + interval '1 minute' - now()))::text;
  end if;
end $$;
revoke execute on function private.spend_test(uuid, integer, integer) from public;
grant execute on function private.spend_test(uuid, integer, integer) to authenticated, service_role;

create function private.sealed_json(p_user_id uuid, p_integration_id uuid) returns jsonb
language sql stable set search_path = '' as $$
  select jsonb_build_object(
    'credentials', (
      select coalesce(jsonb_agg(jsonb_build_object('id', c.id, 'credential_type', c.credential_type,
        'encrypted_value', c.encrypted_value, 'row_version', c.row_version, 'destination', c.destination,
        'expires_at', c.expires_at, 'issued', c.refreshed_at >= c.last_rotated_at is true)), '[]')
      from public.integration_credentials c where c.user_id = p_user_id and c.user_integration_id = p_integration_id),
    'keys', (
      select coalesce(jsonb_agg(jsonb_build_object('id', k.id, 'wrapped_key', k.wrapped_key, 'current', k.retired_at is null)), '[]')
      from public.user_data_keys k where k.user_id = p_user_id)
  );
$$;
revoke execute on function private.sealed_json(uuid, uuid) from public;
grant execute on function private.sealed_json(uuid, uuid) to service_role;

-- All that a write or a test has to know, in one call: the type, the integration, its credentials (ciphertext and
-- keys only with p_secrets, which only the service may ask for), and the stored answer of an idempotency key.
create function public.prepare_write(
  p_user_id uuid, p_integration_id uuid default null, p_type text default null, p_idempotency_key text default null,
  p_secrets boolean default false, p_tests_per_minute integer default null, p_tests_per_day integer default null
) returns jsonb
language plpgsql set search_path = '' as $$
declare
  i public.user_integrations;
  sealed jsonb := '{}';
begin
  if p_integration_id is not null then
    select * into i from public.user_integrations where id = p_integration_id and user_id = p_user_id;
    if not found then
      raise exception 'integration_not_found' using errcode = 'PT404';
    end if;
  end if;
  if p_tests_per_minute is not null then
    perform private.spend_test(p_user_id, p_tests_per_minute, p_tests_per_day);
  end if;
  if p_secrets then
    sealed := private.sealed_json(p_user_id, p_integration_id);
  elsif p_integration_id is not null then
    select jsonb_build_object('credentials', coalesce(jsonb_agg(jsonb_build_object('id', c.id,
        'credential_type', c.credential_type, 'destination', c.destination, 'expires_at', c.expires_at)), '[]'))
      into sealed
      from (select id, credential_type, destination, expires_at from public.integration_credentials
            where user_id = p_user_id and user_integration_id = p_integration_id) c;
  end if;
  return sealed || jsonb_build_object(
    'type', (select jsonb_build_object('id', t.id, 'slug', t.slug, 'name', t.name, 'type', t.type, 'category', t.category,
        'auth_methods', t.auth_methods, 'config_schema', t.config_schema, 'definition', t.definition)
      from public.integration_types t
      where case when p_integration_id is null then t.slug = p_type and t.is_active else t.id = i.integration_type_id end),
    'integration', case when i.id is not null then jsonb_build_object('id', i.id, 'name', i.name,
        'auth_method', i.auth_method, 'connection_config', i.connection_config, 'status', i.status,
        'config_version', i.config_version, 'consecutive_failures', i.consecutive_failures,
        'capabilities', i.capabilities) end,
    'replay', (select jsonb_build_object('fingerprint', k.fingerprint, 'response', k.response)
      from public.idempotency_keys k
      where k.user_id = p_user_id and k.key = p_idempotency_key and k.created_at > now() - interval '24 hours')
  );
end $$;

create function public.sealed_credentials(p_user_id uuid, p_integration_id uuid) returns jsonb
language sql stable set search_path = '' as $$
  select private.sealed_json(p_user_id, p_integration_id);
$$;

-- Stores what was sealed. A credential that somebody else saved meanwhile, or a first data key that lost a race,
-- raises PT409: the caller reads again and seals again.
create function private.store_sealed(p_user_id uuid, p_integration_id uuid, p_payload jsonb) returns void
language plpgsql set search_path = '' as $$
declare
  wanted integer := jsonb_array_length(coalesce(p_payload->'credentials', '[]'));
  stored integer;
begin
  if p_payload->'new_key' is not null and jsonb_typeof(p_payload->'new_key') = 'object' then
    insert into public.user_data_keys (id, user_id, wrapped_key)
    values ((p_payload->'new_key'->>'id')::uuid, p_user_id, p_payload->'new_key'->>'wrapped_key')
    on conflict (user_id) where retired_at is null do nothing;
    if not found then
      raise exception 'changed_meanwhile' using errcode = 'PT409';
    end if;
  end if;
  if wanted > 0 then
    insert into public.integration_credentials as old (
      id, user_integration_id, user_id, credential_type, encrypted_value, data_key_id, row_version, destination, hint, expires_at)
    select c.id, p_integration_id, p_user_id, c.credential_type, c.encrypted_value, c.data_key_id, c.row_version,
      c.destination, c.hint, c.expires_at
    from jsonb_to_recordset(p_payload->'credentials') as c (
      id uuid, credential_type text, encrypted_value text, data_key_id uuid, row_version integer, destination text,
      hint text, expires_at timestamptz)
    on conflict (user_integration_id, credential_type) do update set
      encrypted_value = excluded.encrypted_value, data_key_id = excluded.data_key_id, row_version = excluded.row_version,
      destination = excluded.destination, hint = excluded.hint, expires_at = excluded.expires_at,
      last_rotated_at = clock_timestamp()
    where old.id = excluded.id and old.row_version = excluded.row_version - 1;
    get diagnostics stored = row_count;
    if stored <> wanted then
      raise exception 'changed_meanwhile' using errcode = 'PT409';
    end if;
  end if;
  if jsonb_array_length(coalesce(p_payload->'drop_credentials', '[]')) > 0 then
    delete from public.integration_credentials
    where user_id = p_user_id and user_integration_id = p_integration_id
      and credential_type in (select jsonb_array_elements_text(p_payload->'drop_credentials'));
  end if;
end $$;

-- Keeps the answer, or gives the one that another request with the same key has kept first.
create function private.remember_answer(p_user_id uuid, p_payload jsonb, p_answer jsonb) returns jsonb
language plpgsql set search_path = '' as $$
declare
  used jsonb := p_payload->'idempotency';
begin
  if used is null or jsonb_typeof(used) <> 'object' then
    return p_answer;
  end if;
  delete from public.idempotency_keys
  where user_id = p_user_id and key = used->>'key' and created_at < now() - interval '24 hours';
  insert into public.idempotency_keys (user_id, key, fingerprint, response)
  values (p_user_id, used->>'key', used->>'fingerprint', p_answer);
  return p_answer;
end $$;

-- The body of an integration with the result of the check that came with it, as the API answers it.
create function private.answer(p_user_id uuid, p_integration_id uuid, p_result jsonb) returns jsonb
language sql stable set search_path = '' as $$
  select private.integration_detail(p_user_id, p_integration_id)
    || case when p_result is null then '{}'::jsonb else jsonb_build_object('test_result', p_result->'shown') end;
$$;

create function public.create_integration(p_user_id uuid, p_payload text) returns jsonb
language plpgsql set search_path = '' as $$
declare
  payload jsonb := p_payload::jsonb;
  result jsonb := nullif(payload->'result', 'null');
  new_id uuid;
begin
  if payload->>'id' is not null then -- known beforehand, since credentials are sealed to it
    insert into public.user_integrations (id, user_id, integration_type_id, name, connection_config, auth_method)
    values ((payload->>'id')::uuid, p_user_id, (payload->>'integration_type_id')::uuid, payload->>'name',
            payload->'connection_config', payload->>'auth_method')
    returning id into new_id;
  else
    insert into public.user_integrations (user_id, integration_type_id, name, connection_config, auth_method)
    values (p_user_id, (payload->>'integration_type_id')::uuid, payload->>'name',
            payload->'connection_config', payload->>'auth_method')
    returning id into new_id;
  end if;
  perform private.store_sealed(p_user_id, new_id, payload);
  if result is not null then
    perform private.apply_results(jsonb_build_array(result || jsonb_build_object(
      'user_id', p_user_id, 'user_integration_id', new_id,
      'config_version', (select config_version from public.user_integrations where id = new_id))));
  end if;
  return private.remember_answer(p_user_id, payload, private.answer(p_user_id, new_id, result));
end $$;

-- Only the fields in the payload change. `expected_config_version` guards against a change made meanwhile.
create function public.update_integration(p_user_id uuid, p_integration_id uuid, p_payload text) returns jsonb
language plpgsql set search_path = '' as $$
declare
  payload jsonb := p_payload::jsonb;
  result jsonb := nullif(payload->'result', 'null');
begin
  if payload ?| array['name', 'connection_config', 'auth_method'] then
    update public.user_integrations set
      name = coalesce(payload->>'name', name),
      connection_config = coalesce(payload->'connection_config', connection_config),
      auth_method = coalesce(payload->>'auth_method', auth_method)
    where id = p_integration_id and user_id = p_user_id
      and config_version = (payload->>'expected_config_version')::integer;
    if not found then
      raise exception 'changed_meanwhile' using errcode = 'PT409';
    end if;
  else -- the integration is locked before its credentials, as every writer does
    perform from public.user_integrations
    where id = p_integration_id and user_id = p_user_id
      and config_version = (payload->>'expected_config_version')::integer
    for no key update;
    if not found then
      raise exception 'changed_meanwhile' using errcode = 'PT409';
    end if;
  end if;
  perform private.store_sealed(p_user_id, p_integration_id, payload);
  if result is not null then
    perform private.apply_results(jsonb_build_array(result || jsonb_build_object(
      'user_id', p_user_id, 'user_integration_id', p_integration_id,
      'config_version', (select config_version from public.user_integrations where id = p_integration_id))));
  end if;
  return private.answer(p_user_id, p_integration_id, result);
end $$;

create function public.delete_credential(p_user_id uuid, p_integration_id uuid, p_credential_type text) returns boolean
language plpgsql set search_path = '' as $$
begin
  perform from public.user_integrations where id = p_integration_id and user_id = p_user_id for no key update;
  if not found then
    raise exception 'integration_not_found' using errcode = 'PT404';
  end if;
  delete from public.integration_credentials
  where user_id = p_user_id and user_integration_id = p_integration_id and credential_type = p_credential_type;
  return found;
end $$;

create function public.set_integration_status(p_user_id uuid, p_integration_id uuid, p_status text, p_message text default null)
returns jsonb
language plpgsql set search_path = '' as $$
declare
  old_status text;
begin
  select status into old_status from public.user_integrations
  where id = p_integration_id and user_id = p_user_id for update;
  if not found then
    return null;
  end if;
  update public.user_integrations set
    status = p_status,
    is_connected = p_status = 'connected',
    connected_at = case when p_status = 'connected' and old_status <> 'connected' then now() else connected_at end,
    state_changed_at = case when p_status <> old_status then now() else state_changed_at end,
    last_error = case when p_status = 'error' then p_message when p_status = 'connected' then null else last_error end
  where id = p_integration_id and user_id = p_user_id;
  if p_status in ('connected', 'error') then
    insert into public.integration_schedule as s (user_integration_id, user_id, next_check_at)
    values (p_integration_id, p_user_id, now())
    on conflict (user_integration_id) do update set lease_token = null, next_check_at = least(s.next_check_at, now());
  elsif p_status <> 'testing' then
    delete from public.integration_schedule where user_integration_id = p_integration_id and user_id = p_user_id;
  end if;
  if p_status <> old_status and p_status in ('connected', 'disconnected', 'error') then
    perform private.write_log(p_user_id, p_integration_id, p_status,
      coalesce(p_message, case p_status when 'connected' then 'Connected.' when 'disconnected' then 'Disconnected by its owner. No more checks are made.'
        else 'Set to error.' end));
  end if;
  return private.integration_detail(p_user_id, p_integration_id);
end $$;
comment on function public.set_integration_status(uuid, uuid, text, text) is
  'Sets the status and all that follows from it; logs a change. Null if the integration is not this user''s.';

create function public.log_event(p_user_id uuid, p_integration_id uuid, p_event_type text, p_message text, p_metadata text default '{}')
returns boolean
language plpgsql set search_path = '' as $$
begin
  if not exists (select from public.user_integrations where id = p_integration_id and user_id = p_user_id) then
    return false;
  end if;
  perform private.write_log(p_user_id, p_integration_id, p_event_type, p_message, p_metadata::jsonb);
  return true;
end $$;
