-- Logs, metrics and hourly rollups are partitioned by week, so that retention drops a table instead of deleting rows.
-- Partitions stand in `private`, where no API looks; row level security of the parent guards every read.
create table public.integration_logs (
  id uuid not null default gen_random_uuid(),
  user_id uuid not null references auth.users (id) on delete cascade,
  -- Null once the integration is gone: the log of its deletion stays with its owner.
  user_integration_id uuid,
  event_type text not null check (
    event_type in ('created', 'connected', 'disconnected', 'tested', 'error', 'config_updated', 'deleted',
                   'credential_saved', 'credential_deleted', 'credential_expiring', 'capabilities_changed')
  ),
  message text not null check (char_length(message) <= 2000),
  metadata jsonb not null default '{}' check (jsonb_typeof(metadata) = 'object'),
  created_at timestamptz not null default clock_timestamp(),
  primary key (id, created_at),
  foreign key (user_integration_id, user_id) references public.user_integrations (id, user_id) on delete cascade
) partition by range (created_at);
comment on table public.integration_logs is 'One row is an event in an integration''s life, for its owner to read.';
create index integration_logs_newest on public.integration_logs (user_id, user_integration_id, created_at desc, id desc);

create table public.integration_health_metrics (
  id uuid not null default gen_random_uuid(),
  user_id uuid not null,
  user_integration_id uuid not null,
  response_time_ms integer not null check (response_time_ms >= 0),
  success boolean not null,
  verdict text not null,
  error_message text,
  source text not null check (source in ('test', 'sweep')),
  checked_at timestamptz not null,
  created_at timestamptz not null default now(),
  primary key (id, checked_at),
  foreign key (user_integration_id, user_id) references public.user_integrations (id, user_id) on delete cascade
) partition by range (checked_at);
comment on table public.integration_health_metrics is 'One row is the result of one check.';
create index integration_health_metrics_newest
  on public.integration_health_metrics (user_id, user_integration_id, checked_at desc, id desc);

create table public.integration_health_hourly (
  user_id uuid not null,
  user_integration_id uuid not null,
  starts_at timestamptz not null,
  checks integer not null,
  failures integer not null,
  -- Response times of the successful checks: percentiles of any window are exact, not averages of averages.
  success_ms integer[] not null,
  primary key (user_id, user_integration_id, starts_at),
  foreign key (user_integration_id, user_id) references public.user_integrations (id, user_id) on delete cascade
) partition by range (starts_at);
comment on table public.integration_health_hourly is 'One row is an integration''s hour of checks, kept as results arrive.';

create table public.integration_health_daily (
  user_id uuid not null,
  user_integration_id uuid not null,
  starts_at timestamptz not null,
  checks integer not null,
  failures integer not null,
  success_ms integer[] not null,
  primary key (user_id, user_integration_id, starts_at),
  foreign key (user_integration_id, user_id) references public.user_integrations (id, user_id) on delete cascade
) with (fillfactor = 70);
comment on table public.integration_health_daily is 'One row is an integration''s day (UTC) of checks, kept as results arrive.';
create index integration_health_daily_old on public.integration_health_daily (starts_at);

do $$
declare
  history text;
begin
  foreach history in array array['integration_logs', 'integration_health_metrics', 'integration_health_hourly', 'integration_health_daily'] loop
    execute format('alter table public.%I enable row level security', history);
    execute format('revoke all on public.%I from anon, authenticated, service_role', history);
    execute format('grant select on public.%I to authenticated', history);
    -- The service appends; nobody rewrites history. Rollups alone are added to.
    execute format('grant select, insert on public.%I to service_role', history);
  end loop;
end $$;
grant update on public.integration_health_hourly, public.integration_health_daily to service_role;
create policy "owners read their logs" on public.integration_logs
  for select to authenticated using ((select auth.uid()) = user_id);
create policy "owners read their metrics" on public.integration_health_metrics
  for select to authenticated using ((select auth.uid()) = user_id);
create policy "owners read their hours" on public.integration_health_hourly
  for select to authenticated using ((select auth.uid()) = user_id);
create policy "owners read their days" on public.integration_health_daily
  for select to authenticated using ((select auth.uid()) = user_id);

-- Makes the partition that a moment belongs to, if it is missing. Called wherever history is written, so that no
-- scheduled job has to run first; the usual call is three catalogue look-ups.
create function private.ensure_history(moment timestamptz) returns void
language plpgsql security definer set search_path = '' set timezone = 'UTC' as $$
declare
  week date := date_trunc('week', moment)::date;
  history text;
  part text;
begin
  foreach history in array array['integration_logs', 'integration_health_metrics', 'integration_health_hourly'] loop
    part := history || '_' || to_char(week, 'YYYYMMDD');
    if to_regclass('private.' || part) is null then
      begin
        execute format('create table private.%I partition of public.%I for values from (%L) to (%L)',
                       part, history, week, week + 7);
      exception when duplicate_table then
        null; -- another connection was faster
      end;
    end if;
  end loop;
end $$;
revoke execute on function private.ensure_history(timestamptz) from public;
grant execute on function private.ensure_history(timestamptz) to service_role;

select private.ensure_history(now() + weeks * interval '7 days') from generate_series(0, 8) as weeks;

create function public.drop_history(p_metrics_days integer, p_logs_days integer, p_daily_days integer default 400) returns jsonb
language plpgsql security definer set search_path = '' set timezone = 'UTC' set lock_timeout = '2s' as $$
declare
  part record;
  dropped text[] := '{}';
  days integer;
begin
  if least(p_metrics_days, p_logs_days, p_daily_days) < 1 then
    raise exception 'retention is at least one day' using errcode = '22023';
  end if;
  perform private.ensure_history(now() + weeks * interval '7 days') from generate_series(0, 8) as weeks;
  for part in
    select c.relname as name, parent.relname as history, to_date(right(c.relname, 8), 'YYYYMMDD') + 7 as ends
    from pg_catalog.pg_inherits h
    join pg_catalog.pg_class c on c.oid = h.inhrelid
    join pg_catalog.pg_class parent on parent.oid = h.inhparent
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace and n.nspname = 'private'
    where parent.relname in ('integration_logs', 'integration_health_metrics', 'integration_health_hourly')
      and c.relkind = 'r'
    order by c.relname
  loop
    days := case part.history
      when 'integration_logs' then p_logs_days
      when 'integration_health_metrics' then p_metrics_days
      else 15 -- hours serve windows of up to 7 days
    end;
    if part.ends <= current_date - days then
      execute format('drop table private.%I', part.name);
      dropped := dropped || part.name;
    end if;
  end loop;
  delete from public.integration_health_daily where starts_at < current_date - p_daily_days;
  return to_jsonb(dropped);
end $$;
comment on function public.drop_history(integer, integer, integer) is
  'Drops weekly partitions that ended before their retention, makes those of the next weeks; returns the names dropped.';
revoke execute on function public.drop_history(integer, integer, integer) from public, anon, authenticated;
grant execute on function public.drop_history(integer, integer, integer) to service_role;

-- The one way into the log. Runs as its owner, so that the triggers below can log what clients do.
create function private.write_log(
  p_user_id uuid, p_integration_id uuid, p_event_type text, p_message text, p_metadata jsonb default '{}'
) returns void
language plpgsql security definer set search_path = '' as $$
begin
  perform private.ensure_history(now());
  insert into public.integration_logs (user_id, user_integration_id, event_type, message, metadata)
  values (p_user_id, p_integration_id, p_event_type, p_message, p_metadata);
end $$;
revoke execute on function private.write_log(uuid, uuid, text, text, jsonb) from public;
grant execute on function private.write_log(uuid, uuid, text, text, jsonb) to service_role;

-- A changed configuration is another thing to check: a check under way is not recorded for it, and it is due now. So is
-- what was not on the schedule although it is connected, as a command is not where sweeps run none: it may be a URL now.
create function private.check_anew(p_integration_id uuid) returns void
language sql security definer set search_path = '' as $$
  insert into public.integration_schedule (user_integration_id, user_id, next_check_at)
  select i.id, i.user_id, now() from public.user_integrations i
  where i.id = p_integration_id and (i.status in ('connected', 'error')
    or exists (select from public.integration_schedule s where s.user_integration_id = i.id))
  on conflict (user_integration_id) do update set lease_token = null, next_check_at = excluded.next_check_at;
$$;
revoke execute on function private.check_anew(uuid) from public;

-- Creation, change and deletion are logged by the database itself, whoever makes them. Values are never logged.
create function private.log_integration() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  changed text[];
begin
  if tg_op = 'INSERT' then
    perform private.write_log(new.user_id, new.id, 'created', format('%s was created.', new.name));
  elsif tg_op = 'UPDATE' then
    changed := array_remove(array[
      case when new.name <> old.name then 'name' end,
      case when new.connection_config <> old.connection_config then 'connection_config' end,
      case when new.auth_method <> old.auth_method then 'auth_method' end
    ], null);
    if changed <> '{}' then
      perform private.write_log(new.user_id, new.id, 'config_updated',
        format('Changed: %s.', array_to_string(changed, ', ')), jsonb_build_object('changed', changed));
    end if;
    if new.config_version <> old.config_version then
      perform private.check_anew(new.id);
    end if;
  elsif exists (select from auth.users where id = old.user_id) then -- else the account itself is being deleted
    perform private.write_log(old.user_id, null, 'deleted', format('%s was deleted.', old.name),
      jsonb_build_object('user_integration_id', old.id, 'integration_type_id', old.integration_type_id));
  end if;
  return null;
end $$;
revoke execute on function private.log_integration() from public;
create trigger log_integration after insert or update of name, connection_config, auth_method or delete on public.user_integrations
  for each row execute function private.log_integration();

-- Credentials count as configuration: they set the version on, and the earliest expiry is kept on the integration.
create function private.log_credential() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  -- `new` is null on delete, `old` on insert.
  integration uuid := coalesce(new.user_integration_id, old.user_integration_id);
  kind text := coalesce(new.credential_type, old.credential_type);
  earliest timestamptz;
begin
  if tg_op = 'UPDATE' and (new.last_rotated_at, new.refreshed_at, new.expires_at)
      is not distinct from (old.last_rotated_at, old.refreshed_at, old.expires_at) then
    return null; -- sealed anew under another key: the secret is the same
  end if;
  select min(c.expires_at) into earliest from public.integration_credentials c
  where c.user_integration_id = integration and not private.renews_itself(c);
  if new.refreshed_at is not null and new.refreshed_at is distinct from old.refreshed_at then
    -- Renewed by itself: no configuration changes with it, and nothing happened that a person did.
    update public.user_integrations set next_expiry_at = earliest
    where id = integration and next_expiry_at is distinct from earliest;
    return null;
  end if;
  update public.user_integrations set config_version = config_version + 1, next_expiry_at = earliest where id = integration;
  if found then -- else the integration itself is being deleted
    perform private.check_anew(integration);
    perform private.write_log(coalesce(new.user_id, old.user_id), integration,
      case when tg_op = 'DELETE' then 'credential_deleted' else 'credential_saved' end,
      format(case when tg_op = 'DELETE' then 'Deleted credential %s.' else 'Saved credential %s.' end, kind),
      jsonb_build_object('credential_type', kind));
  end if;
  return null;
end $$;
revoke execute on function private.log_credential() from public;
create trigger log_credential after insert or update or delete on public.integration_credentials
  for each row execute function private.log_credential();
