-- How much is due, and what an hourly job keeps in order.

-- {due, oldest}: how many integrations are due, counted up to p_most, and since when the first one is.
create function public.count_due(p_most integer default 100000) returns jsonb
language sql stable set search_path = '' set timezone = 'UTC' as $$
  select jsonb_build_object('due', count(*), 'oldest', min(next_check_at)) from (
    select s.next_check_at
    from (select user_id from private.sweep_turns where next_due_at <= now() order by next_due_at) t
    join lateral (
      select next_check_at from public.integration_schedule
      where user_id = t.user_id and next_check_at <= now() order by next_check_at limit p_most
    ) s on true
    limit p_most
  ) due;
$$;

-- Tells owners once each, 30, 7 and 1 days before, that something they saved ends: a certificate, a token, a key with a
-- declared age. Not of access tokens that are renewed by themselves. Returns how many it told of.
create function public.note_expiries(p_most integer default 10000) returns integer
language plpgsql set search_path = '' set timezone = 'UTC' as $$
declare
  told integer;
begin
  perform private.ensure_history(now());
  with due as (
    select c.id, nearest.days from public.integration_credentials c
    cross join lateral (
      select min(days) as days from unnest(array[1, 7, 30]) as days where c.expires_at <= now() + make_interval(days => days)
    ) nearest
    where c.expires_at between now() and now() + interval '30 days'
      and (c.expiry_noted_days is null or nearest.days < c.expiry_noted_days)
      and not private.renews_itself(c)
    order by c.id limit p_most for update of c skip locked
  ), noted as (
    update public.integration_credentials c set expiry_noted_days = due.days from due where c.id = due.id
    returning c.user_id, c.user_integration_id, c.credential_type, c.expires_at, due.days
  ), logged as (
    insert into public.integration_logs (user_id, user_integration_id, event_type, message, metadata)
    select user_id, user_integration_id, 'credential_expiring',
      format('The credential %s expires on %s. Save a new one before then.', credential_type, to_char(expires_at, 'YYYY-MM-DD "at" HH24:MI "UTC"')),
      jsonb_build_object('credential_type', credential_type, 'expires_at', expires_at, 'days', days)
    from noted returning id
  )
  select count(*) into told from logged;
  return told;
end $$;

-- Deletes what has served its time and stands in no partition; at most p_most rows of each kind, so that no run is long.
create function public.forget_old(p_most integer default 50000) returns jsonb
language plpgsql set search_path = '' as $$
declare
  answers integer;
  incidents integer;
begin
  delete from public.idempotency_keys where (user_id, key) in (
    select user_id, key from public.idempotency_keys where created_at < now() - interval '24 hours' limit p_most);
  get diagnostics answers = row_count;
  delete from private.provider_minutes where minute < now() - interval '2 hours';
  delete from private.provider_failures f where f.failed_at < now() - interval '2 hours' and not exists (
    select from public.provider_incidents p
    where p.integration_type_id = f.integration_type_id and p.ended_at is null and f.failed_at >= p.started_at);
  -- Nobody is left who could say that it is over.
  update public.provider_incidents p set ended_at = now()
  where p.ended_at is null and p.opened_at < now() - interval '1 day' and not exists (
    select from private.provider_minutes m where m.integration_type_id = p.integration_type_id and m.failed > 0);
  get diagnostics incidents = row_count;
  return jsonb_build_object('answers', answers, 'incidents', incidents);
end $$;

revoke execute on function public.count_due(integer), public.note_expiries(integer), public.forget_old(integer)
  from public, anon, authenticated, service_role;
grant execute on function public.count_due(integer), public.note_expiries(integer), public.forget_old(integer) to service_role;
