-- OAuth tokens are renewed by one worker at a time (chalicelib/services/token_refresh.py): it takes a lease, asks the
-- token endpoint with no connection and no lock held, and stores the answer. Every call is one short transaction.

create table private.token_refreshes (
  user_id uuid not null,
  user_integration_id uuid not null,
  lease_token uuid,
  leased_until timestamptz,
  primary key (user_id, user_integration_id),
  foreign key (user_integration_id, user_id) references public.user_integrations (id, user_id) on delete cascade
);
comment on table private.token_refreshes is
  'One row is an integration whose tokens are renewed: who is at it, until when nobody else may be.';
revoke all on private.token_refreshes from anon, authenticated, service_role;
grant select, insert, update on private.token_refreshes to service_role;

-- Leases the renewal if the access token is still of the version that the caller has read (null: there is none). If it
-- is not, or was renewed within the last minute, or half its life if that is shorter, there is nothing to do: the answer
-- has the rows as they are. If another worker holds the lease, the answer is only that. Null: no such integration.
create function public.claim_refresh(
  p_user_id uuid, p_integration_id uuid, p_access_version integer default null, p_lease_s integer default 90
) returns jsonb
language plpgsql set search_path = '' as $$
declare
  lease private.token_refreshes;
  access public.integration_credentials;
  token uuid := gen_random_uuid();
begin
  perform from public.user_integrations where id = p_integration_id and user_id = p_user_id for key share;
  if not found then
    return null;
  end if;
  insert into private.token_refreshes (user_id, user_integration_id) values (p_user_id, p_integration_id) on conflict do nothing;
  select * into lease from private.token_refreshes
  where user_id = p_user_id and user_integration_id = p_integration_id for update;
  -- Only now, with the lease's row locked: whoever stored a moment ago is seen.
  select * into access from public.integration_credentials
  where user_id = p_user_id and user_integration_id = p_integration_id and credential_type = 'access_token';
  if access.row_version is distinct from p_access_version
     or clock_timestamp() < access.refreshed_at + least(interval '1 minute', (access.expires_at - access.refreshed_at) / 2) then
    return private.sealed_json(p_user_id, p_integration_id) || jsonb_build_object('lease_token', null, 'held', false);
  elsif lease.leased_until > clock_timestamp() then
    return jsonb_build_object('lease_token', null, 'held', true);
  end if;
  update private.token_refreshes set lease_token = token, leased_until = clock_timestamp() + make_interval(secs => p_lease_s)
  where user_id = p_user_id and user_integration_id = p_integration_id;
  return private.sealed_json(p_user_id, p_integration_id) || jsonb_build_object('lease_token', token, 'held', false);
end $$;

-- Ends the lease, if it is still the caller's, and stores what was issued: each row only if it is of the version that was
-- read, so that what an owner has typed or deleted meanwhile stays as they want it. A worker whose lease ran out may
-- still store: while the row has not changed, its token is the newest that there is, and nobody can get it again.
-- Returns all rows as they are now; null: no such integration.
create function public.store_refreshed(p_user_id uuid, p_integration_id uuid, p_lease_token uuid, p_payload text default '{}')
returns jsonb
language plpgsql set search_path = '' as $$
begin
  perform from public.user_integrations where id = p_integration_id and user_id = p_user_id for no key update;
  if not found then
    return null;
  end if;
  update private.token_refreshes set lease_token = null, leased_until = null
  where user_id = p_user_id and user_integration_id = p_integration_id and lease_token = p_lease_token;
  with issued as (
    select * from jsonb_to_recordset(coalesce(p_payload::jsonb->'credentials', '[]')) as c (
      id uuid, credential_type text, encrypted_value text, data_key_id uuid, row_version integer, destination text,
      hint text, expires_at timestamptz)
    where credential_type in ('access_token', 'refresh_token')
  ), renewed as (
    update public.integration_credentials c set
      encrypted_value = i.encrypted_value, data_key_id = i.data_key_id, row_version = i.row_version,
      destination = i.destination, hint = i.hint, expires_at = i.expires_at, refreshed_at = clock_timestamp()
    from issued i
    where c.id = i.id and c.user_id = p_user_id and c.user_integration_id = p_integration_id
      and c.credential_type = i.credential_type and c.row_version = i.row_version - 1
  )
  insert into public.integration_credentials (id, user_integration_id, user_id, credential_type, encrypted_value,
    data_key_id, row_version, destination, hint, expires_at, refreshed_at)
  select i.id, p_integration_id, p_user_id, i.credential_type, i.encrypted_value, i.data_key_id, 1, i.destination, i.hint,
    i.expires_at, clock_timestamp()
  from issued i where i.row_version = 1 and i.credential_type = 'access_token'
  on conflict (user_integration_id, credential_type) do nothing;
  return private.sealed_json(p_user_id, p_integration_id);
end $$;
comment on function public.store_refreshed(uuid, uuid, uuid, text) is
  'Stores tokens that the token endpoint gave, and ends the lease. Repeating a call changes nothing.';

revoke execute on function
  public.claim_refresh(uuid, uuid, integer, integer), public.store_refreshed(uuid, uuid, uuid, text)
  from public, anon, authenticated, service_role;
grant execute on function
  public.claim_refresh(uuid, uuid, integer, integer), public.store_refreshed(uuid, uuid, uuid, text)
  to service_role;
