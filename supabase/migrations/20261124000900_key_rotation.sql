-- What the operator's command for new keys needs (chalicelib/jobs/rotate_keys.py). Every call is one short transaction
-- that changes only what is still as it was read: killed anywhere it loses nothing, and users who save meanwhile win.

create table private.data_key_rotations (
  started_at timestamptz primary key default clock_timestamp(),
  finished_at timestamptz
);
comment on table private.data_key_rotations is
  'One row is a rotation of all data keys. An unfinished one is taken up again by the next run.';
create unique index data_key_rotations_one_at_a_time on private.data_key_rotations ((finished_at is null)) where finished_at is null;
revoke all on private.data_key_rotations from anon, authenticated, service_role;
grant select, insert, update on private.data_key_rotations to service_role;

create index user_data_keys_retired on public.user_data_keys (id) where retired_at is not null;

-- The moment that tells old data keys from new ones: of the unfinished rotation, if there is one.
create function public.begin_key_rotation() returns timestamptz
language plpgsql set search_path = '' as $$
begin
  insert into private.data_key_rotations default values on conflict do nothing;
  return (select started_at from private.data_key_rotations where finished_at is null);
end $$;

create function public.finish_key_rotation() returns void
language sql set search_path = '' as $$
  update private.data_key_rotations set finished_at = clock_timestamp() where finished_at is null;
$$;

create function public.count_sealed() returns jsonb
language sql stable set search_path = '' as $$
  select jsonb_build_object(
    'data_keys', (select count(*) from public.user_data_keys),
    'credentials', (select count(*) from public.integration_credentials));
$$;

-- Pages of data keys in the order of their ids; with p_made_before, of current ones that are older.
create function public.list_data_keys(
  p_after uuid default '00000000-0000-0000-0000-000000000000', p_limit integer default 200, p_made_before timestamptz default null
) returns jsonb
language sql stable set search_path = '' as $$
  select coalesce(jsonb_agg(to_jsonb(page) order by id), '[]') from (
    select id, user_id, wrapped_key from public.user_data_keys
    where id > p_after and (p_made_before is null or (retired_at is null and created_at < p_made_before))
    order by id limit p_limit
  ) page;
$$;

-- p_keys: [{id, from, to}]. The same data keys, wrapped by another key. Returns how many.
create function public.rewrap_data_keys(p_keys text) returns integer
language plpgsql set search_path = '' as $$
declare
  changed integer;
begin
  update public.user_data_keys k set wrapped_key = r."to"
  from jsonb_to_recordset(p_keys::jsonb) as r (id uuid, "from" text, "to" text)
  where k.id = r.id and k.wrapped_key = r."from";
  get diagnostics changed = row_count;
  return changed;
end $$;

-- p_keys: [{old_id, id, user_id, wrapped_key}]. New data keys become the current ones; the old ones are retired, and
-- stay until nothing is sealed with them. Returns how many.
create function public.replace_data_keys(p_keys text) returns integer
language plpgsql set search_path = '' as $$
declare
  made record;
  changed integer := 0;
begin
  for made in select * from jsonb_to_recordset(p_keys::jsonb) as r (old_id uuid, id uuid, user_id uuid, wrapped_key text) loop
    begin
      -- Retired at first, since a user has one current key; before the update, since the foreign key locks the account
      -- and a deletion of the account locks it first, too.
      insert into public.user_data_keys (id, user_id, wrapped_key, retired_at) values (made.id, made.user_id, made.wrapped_key, now());
      update public.user_data_keys set retired_at = now() where id = made.old_id and user_id = made.user_id and retired_at is null;
      if found then
        update public.user_data_keys set retired_at = null where id = made.id;
        changed := changed + 1;
      else
        delete from public.user_data_keys where id = made.id;
      end if;
    exception when foreign_key_violation then
      null; -- the account was deleted meanwhile
    end;
  end loop;
  return changed;
end $$;

-- Pages of credentials in the order of their keys, so that each key is unwrapped once; p_retired: only those whose key
-- is not the current one any more. With all data keys of their owners.
create function public.list_sealed(
  p_after_key uuid default '00000000-0000-0000-0000-000000000000',
  p_after uuid default '00000000-0000-0000-0000-000000000000',
  p_limit integer default 200, p_retired boolean default false
) returns jsonb
language plpgsql stable set search_path = '' as $$
declare
  page jsonb;
begin
  if p_retired then
    select coalesce(jsonb_agg(to_jsonb(sealed) order by data_key_id, id), '[]') into page from (
      select c.id, c.user_id, c.user_integration_id, c.credential_type, c.encrypted_value, c.row_version, c.destination, c.data_key_id
      from public.user_data_keys k join public.integration_credentials c on c.data_key_id = k.id and c.user_id = k.user_id
      where k.retired_at is not null and k.id >= p_after_key and (k.id, c.id) > (p_after_key, p_after)
      order by k.id, c.id limit p_limit
    ) sealed;
  else
    select coalesce(jsonb_agg(to_jsonb(sealed) order by data_key_id, id), '[]') into page from (
      select c.id, c.user_id, c.user_integration_id, c.credential_type, c.encrypted_value, c.row_version, c.destination, c.data_key_id
      from public.integration_credentials c
      where c.data_key_id >= p_after_key and (c.data_key_id, c.id) > (p_after_key, p_after)
      order by c.data_key_id, c.id limit p_limit
    ) sealed;
  end if;
  return jsonb_build_object('credentials', page, 'keys', (
    select coalesce(jsonb_agg(jsonb_build_object('id', k.id, 'user_id', k.user_id, 'wrapped_key', k.wrapped_key, 'current', k.retired_at is null)), '[]')
    from public.user_data_keys k
    where k.user_id in (select (row->>'user_id')::uuid from jsonb_array_elements(page) as row)));
end $$;

-- p_rows: [{id, row_version, old_key_id, data_key_id, encrypted_value}]. The same secret under another data key: the
-- version stays, so a save that was prepared before still wins; one that came before wins because the version differs.
create function public.reseal_credentials(p_rows text) returns integer
language plpgsql set search_path = '' as $$
declare
  changed integer;
begin
  -- Keys before credentials, the order in which a deletion of the account locks them.
  perform from public.user_data_keys
  where id in (select r.data_key_id from jsonb_to_recordset(p_rows::jsonb) as r (data_key_id uuid)) order by id for key share;
  update public.integration_credentials c set encrypted_value = r.encrypted_value, data_key_id = r.data_key_id
  from jsonb_to_recordset(p_rows::jsonb) as r (id uuid, row_version integer, old_key_id uuid, data_key_id uuid, encrypted_value text)
  where c.id = r.id and c.row_version = r.row_version and c.data_key_id = r.old_key_id
    and exists (select from public.user_data_keys k where k.id = r.data_key_id and k.user_id = c.user_id);
  get diagnostics changed = row_count;
  return changed;
end $$;

-- Deletes retired keys that nothing is sealed with. A request that read such a key a moment ago may still save under it,
-- hence the age; and hence the lock before the second look: deleting a key would take a fresh credential with it.
create function public.forget_retired_keys(p_older_than_s integer default 3600, p_limit integer default 1000) returns integer
language plpgsql set search_path = '' as $$
declare
  empty uuid[];
  forgotten integer;
begin
  select array_agg(id) into empty from (
    select k.id from public.user_data_keys k
    where k.retired_at < now() - make_interval(secs => p_older_than_s)
      and not exists (select from public.integration_credentials c where c.data_key_id = k.id and c.user_id = k.user_id)
    order by k.id limit p_limit for update of k skip locked
  ) retired;
  delete from public.user_data_keys k
  where k.id = any(empty)
    and not exists (select from public.integration_credentials c where c.data_key_id = k.id and c.user_id = k.user_id);
  get diagnostics forgotten = row_count;
  return forgotten;
end $$;

revoke execute on function
  public.begin_key_rotation(), public.finish_key_rotation(), public.count_sealed(),
  public.list_data_keys(uuid, integer, timestamptz), public.rewrap_data_keys(text), public.replace_data_keys(text),
  public.list_sealed(uuid, uuid, integer, boolean), public.reseal_credentials(text),
  public.forget_retired_keys(integer, integer)
  from public, anon, authenticated, service_role;
grant execute on function
  public.begin_key_rotation(), public.finish_key_rotation(), public.count_sealed(),
  public.list_data_keys(uuid, integer, timestamptz), public.rewrap_data_keys(text), public.replace_data_keys(text),
  public.list_sealed(uuid, uuid, integer, boolean), public.reseal_credentials(text),
  public.forget_retired_keys(integer, integer)
  to service_role;
