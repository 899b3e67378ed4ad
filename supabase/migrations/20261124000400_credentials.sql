create table public.user_data_keys (
  id uuid primary key,
  user_id uuid not null references auth.users (id) on delete cascade,
  wrapped_key text not null check (char_length(wrapped_key) between 1 and 4096),
  created_at timestamptz not null default now(),
  retired_at timestamptz,
  constraint user_data_keys_owner unique (id, user_id)
);
comment on table public.user_data_keys is
  'One row is a user''s data key, wrapped by KMS or the local key file. Without it, every copy of their secrets is noise.';
create unique index user_data_keys_one_current on public.user_data_keys (user_id) where retired_at is null;
create index user_data_keys_by_user on public.user_data_keys (user_id);

-- No policy and no grant for clients: only the service reads wrapped keys.
alter table public.user_data_keys enable row level security;
revoke all on public.user_data_keys from anon, authenticated, service_role;
grant select, insert, update, delete on public.user_data_keys to service_role;

create table public.integration_credentials (
  id uuid primary key,
  user_integration_id uuid not null,
  user_id uuid not null,
  credential_type text not null check (
    credential_type ~ '^([a-z_]+|env\.[A-Za-z_][A-Za-z0-9_]*|header\.[A-Za-z0-9_-]+)$' and char_length(credential_type) <= 128
  ),
  -- base64 of the sealed bytes (chalicelib/vault/sealing.py).
  encrypted_value text not null check (encrypted_value ~ '^[A-Za-z0-9+/]+=*$' and char_length(encrypted_value) <= 131072),
  data_key_id uuid not null,
  row_version integer not null default 1 check (row_version > 0),
  destination text not null check (char_length(destination) between 1 and 8192),
  hint text check (char_length(hint) <= 4),
  expires_at timestamptz,
  -- How many days before its end the owner was last told of it.
  expiry_noted_days smallint,
  last_rotated_at timestamptz not null default now(),
  -- When a token endpoint last gave this value. Null, or before last_rotated_at: its owner typed it.
  refreshed_at timestamptz,
  created_at timestamptz not null default now(),
  constraint integration_credentials_one_per_type unique (user_integration_id, credential_type),
  foreign key (user_integration_id, user_id) references public.user_integrations (id, user_id) on delete cascade,
  foreign key (data_key_id, user_id) references public.user_data_keys (id, user_id) on delete cascade
);
comment on table public.integration_credentials is
  'One row is a secret of an integration, sealed to its row, its owner and its destination.';
comment on column public.integration_credentials.destination is
  'What the value was sealed for, to tell its owner. The seal itself decides, not this column.';
create index integration_credentials_by_owner on public.integration_credentials (user_id, user_integration_id);
create index integration_credentials_expiring on public.integration_credentials (expires_at) where expires_at is not null;
create index integration_credentials_by_key on public.integration_credentials (data_key_id, user_id);

-- Owners read what they have stored, never the ciphertext.
alter table public.integration_credentials enable row level security;
revoke all on public.integration_credentials from anon, authenticated, service_role;
grant select (id, user_integration_id, user_id, credential_type, destination, hint, expires_at, last_rotated_at, created_at)
  on public.integration_credentials to authenticated;
grant select, insert, update, delete on public.integration_credentials to service_role;
create policy "owners read the metadata of their credentials" on public.integration_credentials
  for select to authenticated using ((select auth.uid()) = user_id);

create function private.forget_expiry_notes() returns trigger
language plpgsql set search_path = '' as $$
begin
  new.expiry_noted_days := null;
  return new;
end $$;
revoke execute on function private.forget_expiry_notes() from public;
create trigger forget_expiry_notes before update of expires_at on public.integration_credentials
  for each row when (new.expires_at is distinct from old.expires_at) execute function private.forget_expiry_notes();

-- An access token that a worker renews: its end is nothing that its owner has to see to.
create function private.renews_itself(c public.integration_credentials) returns boolean
language sql stable set search_path = '' as $$
  select c.credential_type = 'access_token' and (c.refreshed_at >= c.last_rotated_at is true or exists (
    select from public.integration_credentials other
    where other.user_integration_id = c.user_integration_id and other.credential_type = 'refresh_token'));
$$;
revoke execute on function private.renews_itself(public.integration_credentials) from public;
grant execute on function private.renews_itself(public.integration_credentials) to service_role;
