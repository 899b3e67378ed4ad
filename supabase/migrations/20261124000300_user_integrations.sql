create table public.user_integrations (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null default auth.uid() references auth.users (id) on delete cascade,
  integration_type_id uuid not null references public.integration_types (id),
  name text not null check (btrim(name) <> '' and char_length(name) <= 100 and name !~ '[[:cntrl:]]'),
  is_connected boolean not null default false,
  connection_config jsonb not null default '{}' check (
    jsonb_typeof(connection_config) = 'object' and octet_length(connection_config::text) <= 65536
  ),
  auth_method text not null default 'none' check (
    auth_method in ('api_key', 'oauth', 'jwt', 'basic', 'certificate', 'ssh_key', 'none')
  ),
  status text not null default 'configuring' check (
    status in ('connected', 'disconnected', 'error', 'testing', 'configuring')
  ),
  last_tested_at timestamptz,
  last_error text,
  connected_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),

  -- What the last check found.
  last_verdict text check (
    last_verdict in ('ok', 'auth_rejected', 'forbidden_scope', 'rate_limited', 'provider_down', 'timeout', 'network',
                     'tls', 'protocol', 'too_large', 'blocked', 'misconfigured', 'needs_reauth')
  ),
  last_success_at timestamptz,
  failing_since timestamptz,
  consecutive_failures integer not null default 0 check (consecutive_failures >= 0),
  state_changed_at timestamptz,
  state_logged_at timestamptz,
  capabilities jsonb,
  capabilities_changed_at timestamptz,
  -- When tools were last listed: the sweep's usual check is one bare request, which keeps those that are known.
  capabilities_listed_at timestamptz,
  -- How long a successful check by the sweep takes, a moving average: a check may take ten times as long.
  usual_ms integer,
  next_expiry_at timestamptz,
  -- Grows with every change of configuration or credentials: a result of an older version is not recorded.
  config_version integer not null default 1,

  -- First what its owner must act on, then what waits for others, then the rest.
  attention smallint not null generated always as (
    case
      when status = 'disconnected' then 2
      when last_verdict in ('auth_rejected', 'forbidden_scope', 'needs_reauth', 'misconfigured', 'blocked') then 0
      when last_verdict <> 'ok' then 1
      else 2
    end
  ) stored,

  constraint user_integrations_owner unique (id, user_id),
  constraint user_integrations_no_secrets check (not private.has_secret_key(connection_config)),
  constraint user_integrations_connected check (is_connected = (status = 'connected') or status = 'testing')
) with (fillfactor = 80); -- a recorded check changes no indexed column: with room on its page, no index is written
comment on table public.user_integrations is
  'One row is one user''s connection to an integration type. Clients write name, configuration and auth method; all else is the service''s.';

-- Unique per user, never globally: an error must not tell one user what another has.
create unique index user_integrations_name on public.user_integrations (user_id, lower(name));
create index user_integrations_newest on public.user_integrations (user_id, created_at desc, id desc);
create index user_integrations_attention on public.user_integrations (user_id, attention, lower(name), id);
create index user_integrations_by_type on public.user_integrations (integration_type_id);

alter table public.user_integrations enable row level security;
revoke all on public.user_integrations from anon, authenticated, service_role;
grant select, delete on public.user_integrations to authenticated;
grant insert (user_id, integration_type_id, name, connection_config, auth_method) on public.user_integrations to authenticated;
grant update (name, connection_config, auth_method) on public.user_integrations to authenticated;
grant select, insert, update, delete on public.user_integrations to service_role;
create policy "owners read their integrations" on public.user_integrations
  for select to authenticated using ((select auth.uid()) = user_id);
create policy "owners add integrations of their own" on public.user_integrations
  for insert to authenticated with check ((select auth.uid()) = user_id);
create policy "owners change their integrations" on public.user_integrations
  for update to authenticated using ((select auth.uid()) = user_id) with check ((select auth.uid()) = user_id);
create policy "owners delete their integrations" on public.user_integrations
  for delete to authenticated using ((select auth.uid()) = user_id);

create policy "users read the active types and those of their integrations" on public.integration_types
  for select to authenticated using (
    is_active or exists (
      select from public.user_integrations owned
      where owned.integration_type_id = integration_types.id and owned.user_id = (select auth.uid())
    )
  );

create function private.integration_changes() returns trigger
language plpgsql set search_path = '' as $$
begin
  if (new.connection_config, new.auth_method) is distinct from (old.connection_config, old.auth_method) then
    new.config_version := old.config_version + 1;
  end if;
  if new.config_version <> old.config_version then -- another place, perhaps: what the last one offers says nothing
    new.capabilities_listed_at := null;
    new.usual_ms := null;
  end if;
  if (new.name, new.connection_config, new.auth_method, new.status)
     is distinct from (old.name, old.connection_config, old.auth_method, old.status) then
    new.updated_at := now();
  end if;
  return new;
end $$;
revoke execute on function private.integration_changes() from public;
create trigger integration_changes before update on public.user_integrations
  for each row execute function private.integration_changes();

-- Apart from the integrations, so that claiming and rescheduling write one narrow table with two indexes, and no browser
-- is told of it.
create table public.integration_schedule (
  user_integration_id uuid primary key,
  user_id uuid not null,
  -- A claim sets this to the end of its lease: a lease that runs out is due again by itself.
  next_check_at timestamptz not null,
  lease_token uuid,
  foreign key (user_integration_id, user_id) references public.user_integrations (id, user_id) on delete cascade
) with (fillfactor = 80);
comment on table public.integration_schedule is
  'One row is an integration that the sweep checks: those that are connected, and those in error until they recover.';
create index integration_schedule_due on public.integration_schedule (user_id, next_check_at);
alter table public.integration_schedule enable row level security;
revoke all on public.integration_schedule from anon, authenticated, service_role;
grant select on public.integration_schedule to authenticated;
grant select, insert, update, delete on public.integration_schedule to service_role;
create policy "owners read their schedule" on public.integration_schedule
  for select to authenticated using ((select auth.uid()) = user_id);

-- Browsers see changes of status without polling. Credentials, keys and metrics are never published.
do $$
begin
  if not exists (select from pg_publication where pubname = 'supabase_realtime') then
    create publication supabase_realtime;
  end if;
  alter publication supabase_realtime add table public.user_integrations;
end $$;
