-- Recording what checks found, and claiming what is due.

-- One row per user with anything scheduled: claims go round users, so that none starves behind another's backlog.
create table private.sweep_turns (
  user_id uuid primary key references auth.users (id) on delete cascade,
  -- Never later than the earliest next_check_at of the user's schedule; may be earlier.
  next_due_at timestamptz not null
);
comment on table private.sweep_turns is 'One row is a user''s place in the line of the sweep.';
create index sweep_turns_due on private.sweep_turns (next_due_at);
grant select, insert, update on private.sweep_turns to service_role;

-- Keeps that promise where something becomes due earlier than it was; claims set it right again from time to time.
create function private.note_turns() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  -- In the order of user_id, so that two recordings never wait for each other in a circle.
  if tg_op = 'INSERT' then
    insert into private.sweep_turns as t (user_id, next_due_at)
    select user_id, min(next_check_at) from after group by user_id order by user_id
    on conflict (user_id) do update set next_due_at = excluded.next_due_at where t.next_due_at > excluded.next_due_at;
  else
    insert into private.sweep_turns as t (user_id, next_due_at)
    select after.user_id, min(after.next_check_at) from after join before using (user_integration_id)
    where after.next_check_at < before.next_check_at group by after.user_id order by after.user_id
    on conflict (user_id) do update set next_due_at = excluded.next_due_at where t.next_due_at > excluded.next_due_at;
  end if;
  return null;
end $$;
revoke execute on function private.note_turns() from public;
create trigger note_turns_of_new after insert on public.integration_schedule
  referencing new table as after for each statement execute function private.note_turns();
create trigger note_turns_of_changed after update on public.integration_schedule
  referencing old table as before new table as after for each statement execute function private.note_turns();

-- What a verdict makes of a status. Blame needs positive evidence and counts at once; anything else a sweep finds must
-- happen three times in a row. A person who tests is told at once. Off stays off until its owner connects again.
create function private.status_after(
  p_status text, p_intent text, p_success boolean, p_verdict text, p_consecutive_failures integer
) returns text
language sql immutable set search_path = '' as $$
  select case
    when p_intent <> 'connect' and p_status = 'disconnected' then 'disconnected'
    when p_success then 'connected'
    when p_intent in ('connect', 'test') then 'error'
    when p_verdict in ('auth_rejected', 'forbidden_scope', 'needs_reauth', 'misconfigured', 'blocked') then 'error'
    when p_consecutive_failures >= 3 then 'error'
    else p_status
  end;
$$;

-- Records results: status, schedule, metric, rollups and logs together, each result once. A sweep's result counts only
-- while its lease stands; a person's only for the configuration that was tested. Returns the ids recorded.
-- A result: user_id, user_integration_id, source, intent (connect, test, sweep), lease_token or config_version,
-- checked_at, response_time_ms, success, verdict, error_message, next_check_at, steps, capabilities, capability_changes,
-- tools_asked (that no tools came is no reason to ask for them again at once).
create function private.apply_results(p_results jsonb) returns uuid[]
language plpgsql set search_path = '' set timezone = 'UTC' as $$
declare
  swept record;
begin
  -- Logs belong to the week of now, metrics to that of their check: at midnight between weeks, these are two.
  perform private.ensure_history(week) from (
    select date_trunc('week', now())
    union select date_trunc('week', (result->>'checked_at')::timestamptz) from jsonb_array_elements(p_results) as result
  ) as weeks (week);
  with results as (
    select distinct on (user_integration_id) * from jsonb_to_recordset(p_results) as r (
      user_id uuid, user_integration_id uuid, source text, intent text, lease_token uuid, config_version integer,
      checked_at timestamptz, response_time_ms integer, success boolean, verdict text, error_message text,
      next_check_at timestamptz, steps jsonb, capabilities jsonb, capability_changes jsonb, tools_asked boolean)
  ), locked as ( -- the integration before its schedule, as every writer does
    select i.id, i.status, i.state_logged_at, i.config_version as version_now, i.integration_type_id,
      i.consecutive_failures as failures_before,
      -- An outage of the vendor counts against nobody's connection.
      i.consecutive_failures + (r.source = 'test' or incident.id is null or not private.is_outage(r.verdict))::integer as failures,
      r.*
    from results r
    join public.user_integrations i on i.id = r.user_integration_id and i.user_id = r.user_id
    left join public.provider_incidents incident on incident.integration_type_id = i.integration_type_id and incident.ended_at is null
    order by i.id
    for update of i
  ), freed as ( -- two recordings of one lease: the second finds no token any more
    update public.integration_schedule s set lease_token = null, next_check_at = l.next_check_at
    from locked l
    where l.source = 'sweep' and s.user_integration_id = l.id and s.lease_token = l.lease_token
    returning s.user_integration_id
  ), before as (
    select l.*, private.status_after(l.status, l.intent, l.success, l.verdict, l.failures) as status_after
    from locked l
    where case l.source
      when 'sweep' then l.id in (select user_integration_id from freed)
      else l.version_now = l.config_version
    end
  ), after as (
    update public.user_integrations i set
      status = b.status_after,
      is_connected = b.status_after = 'connected',
      connected_at = case when b.status_after = 'connected' and b.status <> 'connected' then b.checked_at else i.connected_at end,
      last_tested_at = b.checked_at,
      last_verdict = b.verdict,
      last_error = case when b.success then null else b.error_message end,
      last_success_at = case when b.success then b.checked_at else i.last_success_at end,
      failing_since = case when b.success then null else coalesce(i.failing_since, b.checked_at) end,
      consecutive_failures = case when b.success then 0 else b.failures end,
      state_changed_at = case when b.status_after <> b.status then b.checked_at else i.state_changed_at end,
      -- A flapping connection is logged once in ten minutes; what a person asked for is always logged.
      state_logged_at = case when b.status_after <> b.status and (b.source = 'test' or b.state_logged_at is null
          or b.state_logged_at < b.checked_at - interval '10 minutes') then b.checked_at else i.state_logged_at end,
      -- A check that did not list the tools keeps those that are known.
      capabilities = case when nullif(b.capabilities, 'null') is null then i.capabilities
        when b.capabilities ? 'tools' or not coalesce(i.capabilities ? 'tools', false) then b.capabilities
        else b.capabilities || jsonb_build_object('tools', i.capabilities->'tools') end,
      capabilities_listed_at = case when b.tools_asked or b.capabilities ? 'tools' then b.checked_at else i.capabilities_listed_at end,
      usual_ms = case when b.success and b.source = 'sweep' then coalesce((i.usual_ms * 4 + b.response_time_ms) / 5, b.response_time_ms)
        else i.usual_ms end,
      capabilities_changed_at = case when nullif(b.capability_changes, 'null') is not null then b.checked_at
        else i.capabilities_changed_at end
    from before b where i.id = b.id
    returning i.id, i.user_id, i.integration_type_id, b.failures_before, b.status as status_before, i.status, i.state_logged_at = b.checked_at as log_state,
      b.source, b.checked_at, b.next_check_at, b.response_time_ms, b.success, b.verdict, b.error_message, b.steps,
      nullif(b.capability_changes, 'null') as capability_changes
  ), scheduled as ( -- a person's result also ends any sweep's lease: the sweep's own result came too late
    insert into public.integration_schedule (user_integration_id, user_id, next_check_at)
    select id, user_id, next_check_at from after
    where source = 'test' and status in ('connected', 'error') and next_check_at is not null
    on conflict (user_integration_id) do update set lease_token = null, next_check_at = excluded.next_check_at
  ), metric as (
    insert into public.integration_health_metrics
      (user_id, user_integration_id, response_time_ms, success, verdict, error_message, source, checked_at)
    select user_id, id, response_time_ms, success, verdict, error_message, source, checked_at from after
  ), hourly as (
    insert into public.integration_health_hourly as h (user_id, user_integration_id, starts_at, checks, failures, success_ms)
    select user_id, id, date_trunc('hour', checked_at), 1, (not success)::int,
      case when success then array[response_time_ms] else '{}' end
    from after
    on conflict (user_id, user_integration_id, starts_at) do update set
      checks = h.checks + 1, failures = h.failures + excluded.failures, success_ms = h.success_ms || excluded.success_ms
  ), daily as (
    insert into public.integration_health_daily as d (user_id, user_integration_id, starts_at, checks, failures, success_ms)
    select user_id, id, date_trunc('day', checked_at), 1, (not success)::int,
      case when success then array[response_time_ms] else '{}' end
    from after
    on conflict (user_id, user_integration_id, starts_at) do update set
      checks = d.checks + 1, failures = d.failures + excluded.failures, success_ms = d.success_ms || excluded.success_ms
  ), events as (
    select user_id, id, 'tested' as event_type,
      case when success then 'The test succeeded.' else coalesce(error_message, 'The test failed.') end as message,
      jsonb_build_object('verdict', verdict, 'steps', coalesce(steps, '[]'), 'response_time_ms', response_time_ms) as metadata
    from after where source = 'test'
    union all
    select user_id, id, status,
      case when status = 'connected' then 'Connected: the check succeeded.' else coalesce(error_message, 'The check failed.') end,
      jsonb_build_object('verdict', verdict, 'steps', coalesce(steps, '[]'), 'source', source)
    from after where status <> status_before and log_state and status in ('connected', 'error')
    union all
    select user_id, id, 'capabilities_changed', 'What this integration offers has changed.', capability_changes
    from after where capability_changes is not null
  ), logged as (
    insert into public.integration_logs (user_id, user_integration_id, event_type, message, metadata)
    select user_id, id, event_type, left(message, 2000), metadata from events
  )
  select array_agg(id) as ids,
    array_agg(integration_type_id) filter (where source = 'sweep') as types,
    array_agg(user_id) filter (where source = 'sweep') as users,
    array_agg(verdict) filter (where source = 'sweep') as verdicts,
    array_agg(failures_before = 0 and status_before = 'connected') filter (where source = 'sweep') as well_before
  into swept from after;
  if swept.types is not null then
    perform private.note_providers(swept.types, swept.users, swept.verdicts, swept.well_before);
  end if;
  return coalesce(swept.ids, '{}');
end $$;

-- One result of a person's test or connect. Null if the integration is not this user's; PT409 if it was changed
-- while it was tested, and then nothing is recorded.
create function public.record_check(p_user_id uuid, p_result text) returns jsonb
language plpgsql set search_path = '' as $$
declare
  result jsonb := p_result::jsonb || jsonb_build_object('user_id', p_user_id);
begin
  if private.apply_results(jsonb_build_array(result)) = '{}' then
    if exists (select from public.user_integrations where id = (result->>'user_integration_id')::uuid and user_id = p_user_id) then
      raise exception 'changed_meanwhile' using errcode = 'PT409';
    end if;
    return null;
  end if;
  return private.answer(p_user_id, (result->>'user_integration_id')::uuid, result);
end $$;

-- p_dropped: [{user_integration_id, lease_token}] of what the sweep does not check here. It leaves the schedule without a
-- result, until its owner connects, tests or changes it.
create function public.record_checks(p_results text, p_dropped text default '[]') returns jsonb
language plpgsql set search_path = '' as $$
begin
  delete from public.integration_schedule s
  using jsonb_to_recordset(p_dropped::jsonb) as d (user_integration_id uuid, lease_token uuid)
  where s.user_integration_id = d.user_integration_id and s.lease_token = d.lease_token;
  return to_jsonb(private.apply_results(p_results::jsonb));
end $$;
comment on function public.record_checks(text, text) is
  'Records a batch of a sweep in one call. Returns the ids recorded: repeating a call records nothing twice.';

-- Leases up to p_limit due integrations and returns all that checking them needs. Users take turns, whoever waited longest
-- first: a round visits 50 users, but no more than there is room for, each with an even share. Fewer users with more each,
-- since every user costs one unwrapped key. Never waits for another claim.
create function public.claim_due_checks(p_limit integer default 500, p_lease_s integer default 120) returns jsonb
language plpgsql set search_path = '' as $$
declare
  claimed uuid[] := '{}';
  tokens uuid[] := '{}';
  dues timestamptz[] := '{}';
  served uuid[];
  served_tokens uuid[];
  served_dues timestamptz[];
  visited uuid[];
begin
  for round in 1..10 loop
    with turns as materialized (
      select user_id from private.sweep_turns where next_due_at <= now()
      order by next_due_at limit least(50, p_limit - cardinality(claimed)) for update skip locked
    ), due as (
      select d.id, d.place, d.next_check_at from turns cross join lateral (
        select s.user_integration_id as id, s.next_check_at, row_number() over (order by s.next_check_at) as place
        from public.integration_schedule s
        where s.user_id = turns.user_id and s.next_check_at <= now() order by s.next_check_at
        limit (select ceil((p_limit - cardinality(claimed))::numeric / count(*)) from turns)
      ) d order by d.place, d.next_check_at limit p_limit - cardinality(claimed)
    ), free as (
      select user_integration_id, next_check_at from public.integration_schedule
      where user_integration_id in (select id from due) and next_check_at <= now() for update skip locked
    ), leased as (
      update public.integration_schedule s set
        lease_token = gen_random_uuid(), next_check_at = now() + make_interval(secs => p_lease_s)
      from free where s.user_integration_id = free.user_integration_id
      returning s.user_integration_id, s.lease_token, free.next_check_at as due_since
    )
    select coalesce(array_agg(user_integration_id), '{}'), coalesce(array_agg(lease_token), '{}'),
      coalesce(array_agg(due_since), '{}'), (select array_agg(user_id) from turns)
    into served, served_tokens, served_dues, visited from leased;
    claimed := claimed || served;
    tokens := tokens || served_tokens;
    dues := dues || served_dues;

    -- Whoever still has something due goes to the end of the line.
    update private.sweep_turns t set next_due_at = greatest(now(), coalesce(
      (select min(s.next_check_at) from public.integration_schedule s where s.user_id = t.user_id), 'infinity'))
    where t.user_id = any(visited);
    exit when visited is null or cardinality(claimed) >= p_limit;
  end loop;

  return (
    with checks as materialized (
      select i.id, i.user_id, i.integration_type_id, l.lease_token, l.due_since, i.auth_method, i.connection_config,
        i.config_version, i.consecutive_failures, i.last_verdict, i.usual_ms, listing.due as list_tools,
        case when listing.due then i.capabilities else i.capabilities - 'tools' end as capabilities
      from unnest(claimed, tokens, dues) as l (id, lease_token, due_since) join public.user_integrations i on i.id = l.id
      -- What an MCP server offers is looked at once a day; after 18 to 24 hours, so that those who came together disperse.
      cross join lateral (select i.consecutive_failures = 0 and coalesce(i.capabilities ? 'protocol_version', false)
        and coalesce(i.capabilities_listed_at, '-infinity')
          < now() - make_interval(hours => 18, secs => abs(hashtext(i.id::text)::bigint % 21600)) as due) listing
    ), sealed as (
      select c.user_integration_id, jsonb_agg(jsonb_build_object('id', c.id, 'credential_type', c.credential_type,
        'encrypted_value', c.encrypted_value, 'row_version', c.row_version, 'destination', c.destination,
        'expires_at', c.expires_at)) as credentials
      from public.integration_credentials c where c.user_integration_id = any(claimed) group by c.user_integration_id
    )
    select jsonb_build_object(
      'checks', (select coalesce(jsonb_agg(to_jsonb(checks) || jsonb_build_object('credentials', coalesce(sealed.credentials, '[]'))), '[]')
        from checks left join sealed on sealed.user_integration_id = checks.id),
      'types', (select coalesce(jsonb_object_agg(t.id, jsonb_build_object('id', t.id, 'slug', t.slug, 'name', t.name,
          'type', t.type, 'category', t.category, 'config_schema', t.config_schema, 'definition', t.definition,
          'incident', exists (select from public.provider_incidents p where p.integration_type_id = t.id and p.ended_at is null))), '{}')
        from public.integration_types t where t.id in (select integration_type_id from checks)),
      -- Nothing for this claim, but others are just serving users who have something due: ask again in a moment.
      'busy', claimed = '{}' and exists (select from private.sweep_turns where next_due_at <= now()),
      'keys', (select coalesce(jsonb_agg(jsonb_build_object('id', k.id, 'user_id', k.user_id, 'wrapped_key', k.wrapped_key)), '[]')
        from public.user_data_keys k where k.user_id in (select user_id from checks))
    )
  );
end $$;

-- Who may call what. Signed-in users prepare and write as far as their grants go; the rest is the service's.
revoke execute on all functions in schema private from public;
revoke execute on function
  public.prepare_write(uuid, uuid, text, text, boolean, integer, integer), public.sealed_credentials(uuid, uuid),
  public.create_integration(uuid, text), public.update_integration(uuid, uuid, text),
  public.delete_credential(uuid, uuid, text), public.set_integration_status(uuid, uuid, text, text),
  public.log_event(uuid, uuid, text, text, text), public.record_check(uuid, text), public.record_checks(text, text),
  public.claim_due_checks(integer, integer)
  from public, anon, authenticated, service_role;
grant execute on function
  public.prepare_write(uuid, uuid, text, text, boolean, integer, integer),
  public.create_integration(uuid, text), public.update_integration(uuid, uuid, text)
  to authenticated, service_role;
grant execute on function
  public.sealed_credentials(uuid, uuid), public.delete_credential(uuid, uuid, text),
  public.set_integration_status(uuid, uuid, text, text), public.log_event(uuid, uuid, text, text, text),
  public.record_check(uuid, text), public.record_checks(text, text), public.claim_due_checks(integer, integer)
  to service_role;
grant execute on function
  private.store_sealed(uuid, uuid, jsonb), private.remember_answer(uuid, jsonb, jsonb), private.answer(uuid, uuid, jsonb)
  to authenticated, service_role;
grant execute on function private.status_after(text, text, boolean, text, integer), private.apply_results(jsonb) to service_role;
