-- The sweep, second version: a user's rows stand together, a claim is bounded in bytes, flapping ends with the last word
-- told, and only a vendor's own address speaks for the vendor.

-- The rows of one user on neighbouring pages: a claim takes several of each user, and writes this index for every one.
alter table public.integration_schedule
  drop constraint integration_schedule_pkey,
  add primary key (user_id, user_integration_id);

alter table public.user_integrations add column logged_status text;
comment on column public.user_integrations.logged_status is
  'The status that the log told last; null means the present one. It differs while a connection flaps.';

-- A changed configuration is another thing to check: a check under way is not recorded for it, and the next one comes
-- early, but never within five minutes of the last. Otherwise whoever changes an address again and again would have it
-- knock at one door after the other, without a test that is counted.
create or replace function private.check_anew(p_integration_id uuid) returns void
language sql security definer set search_path = '' as $$
  insert into public.integration_schedule as s (user_integration_id, user_id, next_check_at)
  select i.id, i.user_id, greatest(now(), i.last_tested_at + interval '5 minutes') from public.user_integrations i
  where i.id = p_integration_id and (i.status in ('connected', 'error') or exists (
    select from public.integration_schedule known where known.user_id = i.user_id and known.user_integration_id = i.id))
  on conflict (user_id, user_integration_id) do update set lease_token = null,
    next_check_at = case when s.lease_token is null then least(s.next_check_at, excluded.next_check_at)
      else excluded.next_check_at end;
$$;

create or replace function public.set_integration_status(p_user_id uuid, p_integration_id uuid, p_status text, p_message text default null)
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
    logged_status = case when p_status <> old_status and p_status in ('connected', 'disconnected', 'error') then p_status
      else logged_status end,
    last_error = case when p_status = 'error' then p_message when p_status = 'connected' then null else last_error end
  where id = p_integration_id and user_id = p_user_id;
  if p_status in ('connected', 'error') then
    insert into public.integration_schedule as s (user_integration_id, user_id, next_check_at)
    values (p_integration_id, p_user_id, now())
    on conflict (user_id, user_integration_id) do update set lease_token = null, next_check_at = least(s.next_check_at, now());
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

-- The generic types lead to each user's own servers, which have no vendor in common; so does an address whose domain the
-- user fills in. Rows of plain SQL do not say.
create or replace function private.has_vendor(t public.integration_types) returns boolean
language sql immutable set search_path = '' as $$
  select t.type <> 'custom' and (t.definition = '{}'
    or coalesce(coalesce(t.definition->>'base_url', t.definition->'mcp'->>'url') !~ '^https?://[^/?#]*[}](:[0-9]+)?([/?#]|$)', false));
$$;

-- Records results: status, schedule, metric, rollups and logs together, each result once. A sweep's result counts only
-- while its lease stands; a person's only for the configuration that was tested. Returns the ids recorded.
-- A result: user_id, user_integration_id, source, intent (connect, test, sweep), lease_token or config_version,
-- checked_at, response_time_ms, success, verdict, error_message, next_check_at, steps, capabilities, capability_changes,
-- tools_asked (that no tools came is no reason to ask for them again at once).
create or replace function private.apply_results(p_results jsonb) returns uuid[]
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
  ), held as materialized ( -- a sweep waits for nobody who is writing to their own rows: what it leaves out is due again
    select i.id from results r join public.user_integrations i on i.id = r.user_integration_id and i.user_id = r.user_id
    where r.source = 'sweep' order by i.id for update of i skip locked
  ), locked as ( -- the integration before its schedule, as every writer does
    select i.id, i.status, i.config_version as version_now, i.integration_type_id,
      -- A vendor is judged by connections that its own address has answered, and by what these find there now.
      case when not i.connection_config ?| array['api_url', 'url', 'token_url', 'host', 'command', 'timeout_ms']
        then i.consecutive_failures = 0 and i.status = 'connected' and i.usual_ms is not null end as well_before,
      -- A flapping connection is logged once in ten minutes, and then as it is; what a person asked for is always logged.
      coalesce(i.logged_status, i.status) as logged_status,
      r.source = 'test' or coalesce(i.state_logged_at < r.checked_at - interval '10 minutes', true) as may_log,
      -- An outage of the vendor counts against nobody's connection.
      i.consecutive_failures + (r.source = 'test' or incident.id is null or not private.is_outage(r.verdict))::integer as failures,
      r.*
    from results r
    join public.user_integrations i on i.id = r.user_integration_id and i.user_id = r.user_id
    left join public.provider_incidents incident on incident.integration_type_id = i.integration_type_id and incident.ended_at is null
    where r.source <> 'sweep' or i.id in (select id from held)
    order by i.id
    for update of i
  ), freed as ( -- two recordings of one lease: the second finds no token any more
    update public.integration_schedule s set lease_token = null, next_check_at = l.next_check_at
    from locked l
    where l.source = 'sweep' and s.user_id = l.user_id and s.user_integration_id = l.id and s.lease_token = l.lease_token
    returning s.user_integration_id
  ), before as (
    select l.*, found.status as status_after,
      found.status in ('connected', 'error') and l.may_log
        and (found.status <> l.logged_status or l.source = 'test' and found.status <> l.status) as log_state
    from locked l
    cross join lateral (select private.status_after(l.status, l.intent, l.success, l.verdict, l.failures) as status) found
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
      state_logged_at = case when b.log_state then b.checked_at else i.state_logged_at end,
      logged_status = case when b.log_state then b.status_after else b.logged_status end,
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
    returning i.id, i.user_id, i.integration_type_id, b.well_before, i.status, b.log_state, b.source, b.checked_at, b.next_check_at, b.response_time_ms, b.success, b.verdict, b.error_message, b.steps,
      nullif(b.capability_changes, 'null') as capability_changes
  ), scheduled as ( -- a person's result also ends any sweep's lease: the sweep's own result came too late
    insert into public.integration_schedule (user_integration_id, user_id, next_check_at)
    select id, user_id, next_check_at from after
    where source = 'test' and status in ('connected', 'error') and next_check_at is not null
    on conflict (user_id, user_integration_id) do update set lease_token = null, next_check_at = excluded.next_check_at
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
    from after where log_state
    union all
    select user_id, id, 'capabilities_changed', 'What this integration offers has changed.', capability_changes
    from after where capability_changes is not null
  ), logged as (
    insert into public.integration_logs (user_id, user_integration_id, event_type, message, metadata)
    select user_id, id, event_type, left(message, 2000), metadata from events
  )
  select array_agg(id) as ids,
    array_agg(integration_type_id) filter (where source = 'sweep' and well_before is not null) as types,
    array_agg(user_id) filter (where source = 'sweep' and well_before is not null) as users,
    array_agg(verdict) filter (where source = 'sweep' and well_before is not null) as verdicts,
    array_agg(well_before) filter (where source = 'sweep' and well_before is not null) as well_before
  into swept from after;
  if swept.types is not null then
    perform private.note_providers(swept.types, swept.users, swept.verdicts, swept.well_before);
  end if;
  return coalesce(swept.ids, '{}');
end $$;

-- Leases up to p_limit due integrations and returns all that checking them needs. Users take turns, whoever waited longest
-- first: a round visits 50 users, but no more than there is room for, each with an even share. Fewer users with more each,
-- since every user costs one unwrapped key. What would make the answer larger than 16 MiB stays due. Never waits for
-- another claim.
create or replace function public.claim_due_checks(p_limit integer default 500, p_lease_s integer default 120) returns jsonb
language plpgsql set search_path = '' as $$
declare
  claimed uuid[] := '{}';
  tokens uuid[] := '{}';
  dues timestamptz[] := '{}';
  served uuid[];
  served_tokens uuid[];
  served_dues timestamptz[];
  visited uuid[];
  owners uuid[] := '{}';
  served_owners uuid[];
  answer jsonb;
  too_much uuid[];
begin
  for round in 1..10 loop
    with turns as materialized (
      select user_id from private.sweep_turns where next_due_at <= now()
      order by next_due_at limit least(50, p_limit - cardinality(claimed)) for update skip locked
    ), due as ( -- locked where they are found, and updated there: no row is looked up twice
      select turns.user_id, d.place, d.next_check_at from turns cross join lateral (
        select s.ctid as place, s.next_check_at from public.integration_schedule s
        where s.user_id = turns.user_id and s.next_check_at <= now() order by s.next_check_at
        limit (select ceil((p_limit - cardinality(claimed))::numeric / count(*)) from turns)
        for update skip locked
      ) d
    ), chosen as (
      select place, next_check_at from (
        select place, next_check_at, row_number() over (partition by user_id order by next_check_at) as nth from due
      ) ranked order by nth, next_check_at limit p_limit - cardinality(claimed)
    ), leased as (
      update public.integration_schedule s set
        lease_token = gen_random_uuid(), next_check_at = now() + make_interval(secs => p_lease_s)
      from chosen where s.ctid = chosen.place
      returning s.user_integration_id, s.user_id, s.lease_token, chosen.next_check_at as due_since
    )
    select coalesce(array_agg(user_integration_id), '{}'), coalesce(array_agg(lease_token), '{}'),
      coalesce(array_agg(due_since), '{}'), coalesce(array_agg(user_id), '{}'), (select array_agg(user_id) from turns)
    into served, served_tokens, served_dues, served_owners, visited from leased;
    claimed := claimed || served;
    tokens := tokens || served_tokens;
    dues := dues || served_dues;
    owners := owners || served_owners;

    -- Whoever still has something due goes to the end of the line.
    update private.sweep_turns t set next_due_at = greatest(now(), coalesce(
      (select min(s.next_check_at) from public.integration_schedule s where s.user_id = t.user_id), 'infinity'))
    where t.user_id = any(visited);
    exit when visited is null or cardinality(claimed) >= p_limit;
  end loop;

  with checks as materialized (
    select i.id, i.user_id, i.integration_type_id, l.lease_token, l.due_since, i.auth_method, i.connection_config,
      i.config_version, i.consecutive_failures, i.last_verdict, i.usual_ms, listing.due as list_tools,
      case when listing.due then i.capabilities else i.capabilities - 'tools' end as capabilities
    from unnest(claimed, owners, tokens, dues) as l (id, user_id, lease_token, due_since)
    join public.user_integrations i on i.id = l.id and i.user_id = l.user_id
    -- What an MCP server offers is looked at once a day; after 18 to 24 hours, so that those who came together disperse.
    cross join lateral (select i.consecutive_failures = 0 and coalesce(i.capabilities ? 'protocol_version', false)
      and coalesce(i.capabilities_listed_at, '-infinity')
        < now() - make_interval(hours => 18, secs => abs(hashtext(i.id::text)::bigint % 21600)) as due) listing
  ), sealed as (
    select c.user_integration_id, sum(octet_length(c.encrypted_value) + 512) as bytes,
      jsonb_agg(jsonb_build_object('id', c.id, 'credential_type', c.credential_type, 'encrypted_value', c.encrypted_value,
        'row_version', c.row_version, 'destination', c.destination, 'expires_at', c.expires_at)) as credentials
    from public.integration_credentials c where c.user_integration_id = any(claimed) group by c.user_integration_id
  ), weighed as materialized ( -- a megabyte of one user's must not crowd out the memory of all
    select to_jsonb(checks) || jsonb_build_object('credentials', coalesce(sealed.credentials, '[]')) as row, checks.id,
      sum(1024 + octet_length(checks.connection_config::text) + coalesce(sealed.bytes, 0)
        + case when checks.list_tools then 131072 else coalesce(pg_column_size(checks.capabilities), 0) end)
        over (order by checks.due_since, checks.id rows unbounded preceding) <= 16777216 as fits
    from checks left join sealed on sealed.user_integration_id = checks.id
  )
  select jsonb_build_object(
    'checks', (select coalesce(jsonb_agg(row), '[]') from weighed where fits),
    'types', (select coalesce(jsonb_object_agg(t.id, jsonb_build_object('id', t.id, 'slug', t.slug, 'name', t.name,
        'type', t.type, 'category', t.category, 'config_schema', t.config_schema, 'definition', t.definition,
        'incident', exists (select from public.provider_incidents p where p.integration_type_id = t.id and p.ended_at is null))), '{}')
      from public.integration_types t where t.id in (select integration_type_id from checks)),
    -- Nothing for this claim, but others are just serving users who have something due: ask again in a moment.
    'busy', claimed = '{}' and exists (select from private.sweep_turns where next_due_at <= now()),
    'keys', (select coalesce(jsonb_agg(jsonb_build_object('id', k.id, 'user_id', k.user_id, 'wrapped_key', k.wrapped_key)), '[]')
      from public.user_data_keys k where k.user_id in (select user_id from checks))
  ), (select array_agg(id) from weighed where not fits)
  into answer, too_much;
  if too_much is not null then
    update public.integration_schedule s set lease_token = null, next_check_at = l.due_since
    from unnest(claimed, owners, dues) as l (id, user_id, due_since)
    where s.user_id = l.user_id and s.user_integration_id = l.id and l.id = any(too_much);
  end if;
  return answer;
end $$;
