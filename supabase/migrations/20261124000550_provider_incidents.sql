-- When many connections of one vendor fail alike and were well before, the vendor is in trouble and nobody's connection.

-- What the sweep has seen of a vendor lately. Both are written once per recorded batch, and forgotten after two hours.
create table private.provider_minutes (
  integration_type_id uuid not null references public.integration_types (id) on delete cascade,
  minute timestamptz not null,
  -- Checks of connections that were well before, and how many of those failed by an outage.
  checks integer not null,
  failures integer not null,
  -- Of all connections, however they were before.
  succeeded integer not null,
  failed integer not null,
  primary key (integration_type_id, minute)
) with (fillfactor = 50);
comment on table private.provider_minutes is 'One row counts a minute of the sweep''s checks of one integration type.';

-- No foreign key to the account: a row is gone within hours, and this is written while vendors fail by the thousand.
create table private.provider_failures (
  integration_type_id uuid not null references public.integration_types (id) on delete cascade,
  failing_user uuid not null,
  verdict text not null,
  failed_at timestamptz not null,
  primary key (integration_type_id, failing_user)
);
comment on table private.provider_failures is 'One row is the last time that a user''s well connection of a type failed by an outage.';
create index provider_failures_lately on private.provider_failures (integration_type_id, failed_at);
grant select, insert, update, delete on private.provider_minutes, private.provider_failures to service_role;

create table public.provider_incidents (
  id uuid primary key default gen_random_uuid(),
  integration_type_id uuid not null references public.integration_types (id) on delete cascade,
  verdict text not null check (verdict in ('provider_down', 'network', 'timeout', 'rate_limited')),
  started_at timestamptz not null,
  opened_at timestamptz not null default now(),
  ended_at timestamptz,
  -- Users whose connections failed, as far as was known when the row was last written.
  users integer not null
);
comment on table public.provider_incidents is
  'One row is a vendor''s outage, as the sweep saw it. While it is open, failures of that kind count against no connection.';
create unique index provider_incidents_one_open on public.provider_incidents (integration_type_id) where ended_at is null;
create index provider_incidents_by_type on public.provider_incidents (integration_type_id, started_at desc);
-- No policy and no grant for clients: the functions below show what concerns them, and not how many others there are.
alter table public.provider_incidents enable row level security;
revoke all on public.provider_incidents from anon, authenticated, service_role;
grant select, insert, update on public.provider_incidents to service_role;

-- The generic types lead to each user's own servers, which have no vendor in common. Rows of plain SQL do not say.
create function private.has_vendor(t public.integration_types) returns boolean
language sql immutable set search_path = '' as $$
  select t.type <> 'custom' and (t.definition = '{}' or t.definition ? 'base_url' or coalesce(t.definition->'mcp' ? 'url', false));
$$;

create function private.is_outage(p_verdict text) returns boolean
language sql immutable set search_path = '' as $$
  select p_verdict in ('provider_down', 'network', 'timeout', 'rate_limited');
$$;

-- Takes note of a batch of the sweep, and opens and closes incidents. The last step of a recording: other recordings
-- wait for these rows, so they are held for the shortest time; always in the same order, so that none waits in a circle.
-- The arrays are parallel, one element for each result recorded.
create function private.note_providers(p_types uuid[], p_users uuid[], p_verdicts text[], p_well_before boolean[]) returns void
language plpgsql set search_path = '' as $$
declare
  failing uuid[];
begin
  with seen as (
    select s.* from unnest(p_types, p_users, p_verdicts, p_well_before) as s (type_id, user_id, verdict, well_before)
    join public.integration_types t on t.id = s.type_id where private.has_vendor(t)
  ), counted as (
    insert into private.provider_minutes as m (integration_type_id, minute, checks, failures, succeeded, failed)
    select type_id, date_trunc('minute', now()), count(*) filter (where well_before),
      count(*) filter (where well_before and private.is_outage(verdict)),
      count(*) filter (where verdict = 'ok'), count(*) filter (where private.is_outage(verdict))
    from seen group by type_id order by type_id
    on conflict (integration_type_id, minute) do update set checks = m.checks + excluded.checks,
      failures = m.failures + excluded.failures, succeeded = m.succeeded + excluded.succeeded, failed = m.failed + excluded.failed
  ), remembered as (
    insert into private.provider_failures as f (integration_type_id, failing_user, verdict, failed_at)
    select distinct on (type_id, user_id) type_id, user_id, verdict, now() from seen
    where well_before and private.is_outage(verdict) order by type_id, user_id
    on conflict (integration_type_id, failing_user) do update set verdict = excluded.verdict, failed_at = excluded.failed_at
    returning integration_type_id
  )
  select array_agg(distinct integration_type_id) into failing from remembered;
  if failing is not null then
    perform private.open_incidents(failing);
  end if;
  perform private.close_incidents(p_types);
end $$;

-- An incident: within the last one to ten minutes, at least five users' connections failed alike, and no fewer connections
-- failed than stayed well. A vendor that fails again within ten minutes had one outage, not two.
create function private.open_incidents(p_types uuid[]) returns void
language sql set search_path = '' as $$
  with spans as ( -- from each of the last ten minutes until now
    select integration_type_id, minute, sum(checks) over reaching_now as checks, sum(failures) over reaching_now as failures
    from private.provider_minutes
    where integration_type_id = any(p_types) and minute > now() - interval '10 minutes'
    window reaching_now as (partition by integration_type_id order by minute desc)
  ), suspects as ( -- the longest span tells when it began
    select integration_type_id, min(minute) as since from spans where failures >= 5 and failures * 2 >= checks
    group by integration_type_id
  ), alike as (
    select distinct on (s.integration_type_id) s.integration_type_id, f.verdict, count(*) as users, min(f.failed_at) as started_at
    from suspects s join private.provider_failures f on f.integration_type_id = s.integration_type_id and f.failed_at >= s.since
    group by s.integration_type_id, f.verdict order by s.integration_type_id, count(*) desc
  ), again as (
    update public.provider_incidents p set ended_at = null, verdict = a.verdict, users = a.users
    from alike a
    where a.users >= 5 and p.integration_type_id = a.integration_type_id and p.ended_at > now() - interval '10 minutes'
      and p.started_at = (select max(started_at) from public.provider_incidents where integration_type_id = a.integration_type_id)
    returning p.integration_type_id
  )
  insert into public.provider_incidents (integration_type_id, verdict, started_at, users)
  select integration_type_id, verdict, started_at, users from alike
  where users >= 5 and integration_type_id not in (select integration_type_id from again)
  order by integration_type_id
  on conflict (integration_type_id) where ended_at is null do nothing;
$$;

-- Over when most checks succeed again, looking at the last five minutes, and at nothing from before the incident.
create function private.close_incidents(p_types uuid[]) returns void
language sql set search_path = '' as $$
  update public.provider_incidents p set ended_at = now(), users = greatest(p.users, (
    select count(*) from private.provider_failures f
    where f.integration_type_id = p.integration_type_id and f.failed_at >= p.started_at))
  where p.integration_type_id = any(p_types) and p.ended_at is null and (
    select sum(m.succeeded) > sum(m.failed) and sum(m.succeeded) >= 3 from private.provider_minutes m
    where m.integration_type_id = p.integration_type_id
      and m.minute >= greatest(date_trunc('minute', p.opened_at), now() - interval '5 minutes'));
$$;

-- What the owner of a connection is shown: the open incident that explains its last verdict.
create function private.incident_json(p_type_id uuid, p_verdict text) returns jsonb
language sql stable security definer set search_path = '' set timezone = 'UTC' as $$
  select jsonb_build_object('id', id, 'verdict', verdict, 'started_at', started_at)
  from public.provider_incidents
  where integration_type_id = p_type_id and ended_at is null and private.is_outage(p_verdict);
$$;

-- The incidents of the caller's vendors that are open or ended since; newest first.
create function private.incidents_json(p_since timestamptz) returns jsonb
language sql stable security definer set search_path = '' set timezone = 'UTC' as $$
  select coalesce(jsonb_agg(shown order by shown->>'started_at' desc), '[]') from (
    select jsonb_build_object('id', p.id, 'verdict', p.verdict, 'started_at', p.started_at, 'ended_at', p.ended_at,
      'integration_type', jsonb_build_object('slug', t.slug, 'name', t.name),
      'integrations', mine.count) as shown
    from (
      select integration_type_id, count(*) as count from public.user_integrations
      where user_id = (select auth.uid()) group by integration_type_id
    ) mine
    join public.provider_incidents p using (integration_type_id)
    join public.integration_types t on t.id = p.integration_type_id
    where p.ended_at is null or p.ended_at >= p_since
    order by p.started_at desc limit 20
  ) recent;
$$;

revoke execute on function
  private.has_vendor(public.integration_types), private.is_outage(text),
  private.note_providers(uuid[], uuid[], text[], boolean[]), private.open_incidents(uuid[]), private.close_incidents(uuid[]),
  private.incident_json(uuid, text), private.incidents_json(timestamptz)
  from public;
grant execute on function
  private.has_vendor(public.integration_types), private.is_outage(text),
  private.note_providers(uuid[], uuid[], text[], boolean[]), private.open_incidents(uuid[]), private.close_incidents(uuid[])
  to service_role;
grant execute on function private.incident_json(uuid, text), private.incidents_json(timestamptz) to authenticated, service_role;
