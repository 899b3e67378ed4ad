-- What the API reads, one call a request, as the caller: row level security decides what each function sees.
-- Answers are jsonb, so that timestamps are ISO 8601 wherever Postgres stands. A null answer means "not found".

create function private.type_json(t public.integration_types) returns jsonb
language sql stable set search_path = '' as $$
  select jsonb_build_object('slug', t.slug, 'name', t.name, 'type', t.type, 'category', t.category, 'icon_type', t.icon_type);
$$;

create function private.recent_json(p_user_id uuid, p_integration_id uuid) returns jsonb
language sql stable set search_path = '' set timezone = 'UTC' as $$
  select jsonb_agg(
    jsonb_build_object('at', hours.at, 'checks', coalesce(h.checks, 0), 'failures', coalesce(h.failures, 0)) order by hours.at
  )
  from generate_series(date_trunc('hour', now()) - interval '23 hours', date_trunc('hour', now()), interval '1 hour') as hours (at)
  left join (
    select starts_at, checks, failures from public.integration_health_hourly
    where user_id = p_user_id and user_integration_id = p_integration_id
      and starts_at >= date_trunc('hour', now()) - interval '23 hours'
  ) h on h.starts_at = hours.at;
$$;

create function private.integration_json(i public.user_integrations) returns jsonb
language sql stable set search_path = '' set timezone = 'UTC' as $$
  select jsonb_build_object(
    'id', i.id, 'name', i.name, 'integration_type', private.type_json(t), 'auth_method', i.auth_method,
    'connection_config', i.connection_config, 'status', i.status, 'is_connected', i.is_connected,
    'last_tested_at', i.last_tested_at, 'last_error', i.last_error, 'connected_at', i.connected_at,
    'created_at', i.created_at, 'updated_at', i.updated_at,
    'last_verdict', i.last_verdict, 'last_success_at', i.last_success_at, 'failing_since', i.failing_since,
    'next_check_at', (select s.next_check_at from public.integration_schedule s where s.user_integration_id = i.id),
    'next_expiry_at', i.next_expiry_at,
    'capabilities_changed_at', i.capabilities_changed_at,
    'incident', private.incident_json(i.integration_type_id, i.last_verdict),
    'recent', private.recent_json(i.user_id, i.id)
  )
  from public.integration_types t where t.id = i.integration_type_id;
$$;

-- Named columns, since owners may not read the whole row.
create function private.credentials_json(p_user_id uuid, p_integration_id uuid) returns jsonb
language sql stable set search_path = '' set timezone = 'UTC' as $$
  select coalesce(jsonb_agg(jsonb_build_object(
    'credential_type', c.credential_type, 'hint', c.hint, 'destination', c.destination,
    'expires_at', c.expires_at, 'last_rotated_at', c.last_rotated_at, 'created_at', c.created_at)
    order by c.credential_type), '[]')
  from public.integration_credentials c
  where c.user_id = p_user_id and c.user_integration_id = p_integration_id;
$$;

-- What one page about one integration shows.
create function private.integration_detail(p_user_id uuid, p_integration_id uuid) returns jsonb
language sql stable set search_path = '' as $$
  select private.integration_json(i) || jsonb_build_object(
    'capabilities', i.capabilities, 'credentials', private.credentials_json(i.user_id, i.id))
  from public.user_integrations i where i.id = p_integration_id and i.user_id = p_user_id;
$$;

create function public.get_integration(p_integration_id uuid) returns jsonb
language sql stable set search_path = '' as $$
  select private.integration_detail((select auth.uid()), p_integration_id);
$$;

create function private.like_pattern(typed text) returns text
language sql immutable strict set search_path = '' as $$
  select '%' || regexp_replace(typed, '([\\%_])', '\\\1', 'g') || '%';
$$;

-- p_after: the sort key and id of the last row of the page before, as a JSON array.
create function public.list_integrations(
  p_status text default null, p_verdict text default null, p_type text default null, p_category text default null,
  p_q text default null, p_sort text default 'created', p_after text default null, p_limit integer default 50
) returns jsonb
language plpgsql stable set search_path = '' set timezone = 'UTC' as $$
declare
  me uuid := auth.uid();
  after jsonb := p_after::jsonb;
  page jsonb;
begin
  execute format($q$
    with page as (
      select i, %1$s as key
      from public.user_integrations i
      join public.integration_types t on t.id = i.integration_type_id
      where i.user_id = $1
        and ($2 is null or i.status = $2)
        and ($3 is null or i.last_verdict = $3)
        and ($4 is null or t.type = $4 or t.slug = $4)
        and ($5 is null or t.category = $5)
        and ($6 is null or i.name ilike private.like_pattern($6))
        and ($7 is null or %2$s)
      order by %3$s
      limit $8 + 1
    ), numbered as (select page.*, row_number() over () as place from page)
    select jsonb_build_object(
      'items', coalesce(jsonb_agg(private.integration_json(n.i) order by place) filter (where place <= $8), '[]'),
      'next', (array_agg(n.key order by place) filter (where place = $8 and (select count(*) from numbered) > $8))[1]
    ) from numbered n
  $q$,
    case p_sort
      when 'attention' then 'jsonb_build_array(i.attention, lower(i.name), i.id)'
      when 'name' then 'jsonb_build_array(lower(i.name), i.id)'
      else 'jsonb_build_array(i.created_at, i.id)'
    end,
    case p_sort
      when 'attention' then '(i.attention, lower(i.name), i.id) > (($7->>0)::smallint, $7->>1, ($7->>2)::uuid)'
      when 'name' then '(lower(i.name), i.id) > ($7->>0, ($7->>1)::uuid)'
      else '(i.created_at, i.id) < (($7->>0)::timestamptz, ($7->>1)::uuid)'
    end,
    case p_sort
      when 'attention' then 'i.attention, lower(i.name), i.id'
      when 'name' then 'lower(i.name), i.id'
      else 'i.created_at desc, i.id desc'
    end
  ) into page using me, p_status, p_verdict, p_type, p_category, p_q, after, p_limit;
  return page || jsonb_build_object('counts', private.counts_json(me));
end $$;

create function private.counts_json(p_user_id uuid) returns jsonb
language sql stable set search_path = '' as $$
  with counted as (
    select status, last_verdict, count(*) as n from public.user_integrations
    where user_id = p_user_id group by grouping sets ((status), (last_verdict))
  )
  select jsonb_build_object(
    'status', coalesce(jsonb_object_agg(status, n) filter (where status is not null), '{}'),
    'verdict', coalesce(jsonb_object_agg(last_verdict, n) filter (where status is null and last_verdict is not null), '{}')
  ) from counted;
$$;

-- Windows end with the hour (24h, 7d) or the UTC day (30d) that has begun.
create function private.window_start(p_window text) returns timestamptz
language sql stable set search_path = '' set timezone = 'UTC' as $$
  select case p_window
    when '24h' then date_trunc('hour', now()) - interval '23 hours'
    when '7d' then date_trunc('hour', now()) - interval '167 hours'
    when '30d' then date_trunc('day', now()) - interval '29 days'
  end;
$$;

create function private.rollups(p_user_id uuid, p_integration_id uuid, p_window text)
returns table (user_integration_id uuid, starts_at timestamptz, checks integer, failures integer, success_ms integer[])
language plpgsql stable set search_path = '' as $$
begin
  if p_window = '30d' then
    return query select d.user_integration_id, d.starts_at, d.checks, d.failures, d.success_ms
      from public.integration_health_daily d
      where d.user_id = p_user_id and (p_integration_id is null or d.user_integration_id = p_integration_id)
        and d.starts_at >= private.window_start(p_window);
  else
    return query select h.user_integration_id, h.starts_at, h.checks, h.failures, h.success_ms
      from public.integration_health_hourly h
      where h.user_id = p_user_id and (p_integration_id is null or h.user_integration_id = p_integration_id)
        and h.starts_at >= private.window_start(p_window);
  end if;
end $$;

create function public.get_health_summary(p_integration_id uuid, p_window text default '24h') returns jsonb
language sql stable set search_path = '' set timezone = 'UTC' as $$
  with buckets as materialized (
    select * from private.rollups((select auth.uid()), p_integration_id, p_window)
  ), overall as (
    select sum(checks) as checks, sum(failures) as failures from buckets
  ), times as (
    select avg(ms) as avg, max(ms) as max,
      percentile_disc(array[0.5, 0.95]) within group (order by ms) as p
    from buckets, unnest(success_ms) as ms
  ), series as (
    select jsonb_agg(jsonb_build_object(
      'at', b.starts_at, 'checks', b.checks, 'failures', b.failures, 'p50', s.p[1], 'p95', s.p[2]) order by b.starts_at) as points
    from buckets b
    left join lateral (
      select percentile_disc(array[0.5, 0.95]) within group (order by ms) as p from unnest(b.success_ms) as ms
    ) s on true
  )
  select jsonb_build_object(
    'window', p_window,
    'checks', coalesce(overall.checks, 0),
    'success_rate', round((overall.checks - overall.failures)::numeric / nullif(overall.checks, 0), 4),
    'response_time_ms', jsonb_build_object('avg', round(times.avg, 1), 'p50', times.p[1], 'p95', times.p[2], 'max', times.max),
    'last_success_at', i.last_success_at, 'failing_since', i.failing_since,
    'series', coalesce(series.points, '[]')
  )
  from public.user_integrations i, overall, times, series
  where i.id = p_integration_id and i.user_id = (select auth.uid());
$$;

create function public.get_overview(p_window text default '24h') returns jsonb
language sql stable set search_path = '' set timezone = 'UTC' as $$
  with mine as materialized (
    select id, name, status, last_verdict, state_changed_at, next_expiry_at
    from public.user_integrations where user_id = (select auth.uid())
  ), health as (
    select sum(r.checks) as checks, sum(r.failures) as failures,
      sum((select sum(ms) from unnest(r.success_ms) as ms)) as total_ms,
      max((select max(ms) from unnest(r.success_ms) as ms)) as max_ms
    from private.rollups((select auth.uid()), null, p_window) r
  ), changed as (
    select * from mine where state_changed_at >= private.window_start(p_window) order by state_changed_at desc, id limit 20
  ), expiring as (
    select * from mine where next_expiry_at < now() + interval '30 days' order by next_expiry_at, id limit 20
  )
  select jsonb_build_object(
    'window', p_window,
    'counts', private.counts_json((select auth.uid())),
    'checks', coalesce(h.checks, 0),
    'success_rate', round((h.checks - h.failures)::numeric / nullif(h.checks, 0), 4),
    'response_time_ms', jsonb_build_object('avg', round(h.total_ms::numeric / nullif(h.checks - h.failures, 0), 1), 'max', h.max_ms),
    'changed', (select coalesce(jsonb_agg(jsonb_build_object(
        'integration_id', id, 'name', name, 'status', status, 'last_verdict', last_verdict, 'at', state_changed_at)
        order by state_changed_at desc, id), '[]') from changed),
    'expiring', (select coalesce(jsonb_agg(jsonb_build_object(
        'integration_id', id, 'name', name, 'next_expiry_at', next_expiry_at) order by next_expiry_at, id), '[]') from expiring),
    'incidents', private.incidents_json(private.window_start(p_window))
  ) from health h;
$$;

create function private.owns(p_integration_id uuid) returns boolean
language sql stable set search_path = '' as $$
  select exists (select from public.user_integrations where id = p_integration_id and user_id = (select auth.uid()));
$$;

-- The first page begins at the last possible key: with "p_after is null or …", a plan that is kept for all arguments reads
-- every page before the one that is asked for. `case`, since behind a policy, Postgres distrusts `coalesce`. No sorting, since
-- Postgres believes that an integration has one row in a week, and would read thousands to sort out a page.
create function public.list_integration_logs(
  p_integration_id uuid, p_event_type text default null, p_after text default null, p_limit integer default 50
) returns jsonb
language sql stable set search_path = '' set timezone = 'UTC' set enable_sort = off as $$
  with page as (
    select id, event_type, message, metadata, created_at, row_number() over (order by created_at desc, id desc) as place
    from public.integration_logs
    where user_id = (select auth.uid()) and user_integration_id = p_integration_id
      and (p_event_type is null or event_type = p_event_type)
      and (created_at, id) < (
        case when p_after is null then 'infinity' else (p_after::jsonb->>0)::timestamptz end,
        case when p_after is null then 'ffffffff-ffff-ffff-ffff-ffffffffffff' else (p_after::jsonb->>1)::uuid end)
    order by created_at desc, id desc limit p_limit + 1
  )
  select jsonb_build_object(
    'items', coalesce(jsonb_agg(to_jsonb(page) - 'place' order by place) filter (where place <= p_limit), '[]'),
    'next', case when count(*) > p_limit then
      (jsonb_agg(jsonb_build_array(created_at, id)) filter (where place = p_limit))->0 end
  ) from page having private.owns(p_integration_id);
$$;

create function public.list_health_metrics(p_integration_id uuid, p_after text default null, p_limit integer default 50)
returns jsonb
language sql stable set search_path = '' set timezone = 'UTC' set enable_sort = off as $$
  with page as (
    select id, response_time_ms, success, verdict, error_message, source, checked_at,
      row_number() over (order by checked_at desc, id desc) as place
    from public.integration_health_metrics
    where user_id = (select auth.uid()) and user_integration_id = p_integration_id
      and (checked_at, id) < (
        case when p_after is null then 'infinity' else (p_after::jsonb->>0)::timestamptz end,
        case when p_after is null then 'ffffffff-ffff-ffff-ffff-ffffffffffff' else (p_after::jsonb->>1)::uuid end)
    order by checked_at desc, id desc limit p_limit + 1
  )
  select jsonb_build_object(
    'items', coalesce(jsonb_agg(to_jsonb(page) - 'place' order by place) filter (where place <= p_limit), '[]'),
    'next', case when count(*) > p_limit then
      (jsonb_agg(jsonb_build_array(checked_at, id)) filter (where place = p_limit))->0 end
  ) from page having private.owns(p_integration_id);
$$;

create function public.list_credentials(p_integration_id uuid) returns jsonb
language sql stable set search_path = '' as $$
  select jsonb_build_object('items', private.credentials_json((select auth.uid()), p_integration_id))
  where private.owns(p_integration_id);
$$;

-- The catalogue: full text with prefixes, and trigrams for typing errors. Best match first.
create function private.prefix_query(config regconfig, typed text) returns tsquery
language sql immutable strict set search_path = '' set client_min_messages = error as $$
  -- Letters and digits only, so that no operator of tsquery syntax gets through.
  select to_tsquery(config, string_agg(word || ':*', ' & '))
  from unnest(regexp_split_to_array(lower(typed), '[^[:alnum:]]+')) as word where word <> '';
$$;

-- What has some of the words that matter (not "of", not "the"), in singular or plural: two of them, or one.
create function private.some_words_query(typed text, at_least integer) returns tsquery
language sql immutable strict set search_path = '' as $$
  with words as (
    select coalesce(nullif(rtrim(word, 's'), ''), word) as word, place
    from unnest(regexp_split_to_array(lower(typed), '[^[:alnum:]]+')) with ordinality as w (word, place)
    where word <> '' and cardinality(ts_lexize('pg_catalog.english_stem', word)) > 0 limit 8
  )
  select to_tsquery('pg_catalog.simple', case
    when at_least = 1 then (select string_agg(word || ':*', ' | ') from words)
    else (select string_agg(format('(%s:* & %s:*)', a.word, b.word), ' | ') from words a join words b on a.place < b.place)
  end);
$$;

-- A page of ids. Ranks: 0 exact names, 1 starts of names, 2 words of names, 3 tags and categories, 4 descriptions; if
-- there is none of these, 5 to 6 for names and tags with typing errors; then 6 to 7 for what has two of the words; then
-- 7 for names and 8 for tags and categories with one of them.
-- Row level security would keep the indexes from being used (their operators are not leakproof), so this runs as its
-- owner and looks at active types only, which is what everybody may see.
create function private.found_types(
  p_type text, p_category text, p_q text, p_rank numeric, p_name text, p_id uuid, p_limit integer
) returns table (id uuid, rank numeric, sort_name text)
language plpgsql stable rows 50 security definer set search_path = '' set plan_cache_mode = force_custom_plan
as $$
#variable_conflict use_column
declare
  typed text := left(lower(btrim(p_q)), 200);
  -- Once as typed, once by their stems: "repository" finds "repositories", and of "in the cloud" the last word counts.
  words tsquery := private.prefix_query('pg_catalog.simple', typed)
    || private.prefix_query('pg_catalog.english', typed);
  some_words tsquery;
  starts text := substr(private.like_pattern(typed), 2);
  from_rank numeric := coalesce(p_rank, 0);
  missing integer := p_limit;
  got integer;
begin
  if coalesce(typed, '') = '' then
    return query select t.id, 0.0, lower(t.name) from public.integration_types t
      where t.is_active and (p_type is null or t.type = p_type) and (p_category is null or t.category = p_category)
        and (p_id is null or (lower(t.name), t.id) > (p_name, p_id))
      order by lower(t.name), t.id limit missing;
    return;
  end if;
  if from_rank < 2 then
    return query select * from (
      select t.id, case when lower(t.name) = typed or t.slug = typed then 0.0 else 1.0 end as rank, lower(t.name) as sort_name
      from public.integration_types t
      where t.is_active and (p_type is null or t.type = p_type) and (p_category is null or t.category = p_category)
        and (lower(t.name) like starts or t.slug = typed)
    ) f where p_id is null or (f.rank, f.sort_name, f.id) > (p_rank, p_name, p_id)
    order by f.rank, f.sort_name, f.id limit missing;
    get diagnostics got = row_count;
    missing := missing - got;
  end if;
  if missing > 0 and from_rank < 3 then
    return query select t.id, 2.0, lower(t.name) from public.integration_types t
      where t.is_active and (p_type is null or t.type = p_type) and (p_category is null or t.category = p_category)
        and t.search_name @@ words and not (lower(t.name) like starts or t.slug = typed)
        and (from_rank < 2 or (lower(t.name), t.id) > (p_name, p_id))
      order by lower(t.name), t.id limit missing;
    get diagnostics got = row_count;
    missing := missing - got;
  end if;
  if missing > 0 and from_rank < 4 then
    return query select t.id, 3.0, lower(t.name) from public.integration_types t
      where t.is_active and (p_type is null or t.type = p_type) and (p_category is null or t.category = p_category)
        and t.search_tags @@ words and not t.search_name @@ words and not (lower(t.name) like starts or t.slug = typed)
        and (from_rank < 3 or (lower(t.name), t.id) > (p_name, p_id))
      order by lower(t.name), t.id limit missing;
    get diagnostics got = row_count;
    missing := missing - got;
  end if;
  if missing > 0 and from_rank < 5 then
    return query select t.id, 4.0, lower(t.name) from public.integration_types t
      where t.is_active and (p_type is null or t.type = p_type) and (p_category is null or t.category = p_category)
        and t.search @@ words and not t.search_tags @@ words and not (lower(t.name) like starts or t.slug = typed)
        and (from_rank < 4 or (lower(t.name), t.id) > (p_name, p_id))
      order by lower(t.name), t.id limit missing;
    get diagnostics got = row_count;
    missing := missing - got;
  end if;
  if (p_rank is null and missing < p_limit) or p_rank < 5 then
    return;
  end if;
  if from_rank < 6 and char_length(typed) <= 40 then
    -- Of "slcak", 2 of 6 trigrams are right. A longer word keeps more of its own; of several, one is not enough.
    perform set_config(
      'pg_trgm.word_similarity_threshold',
      case when typed like '% %' then '0.65' when char_length(typed) > 8 then '0.5' else '0.3' end, true
    );
    return query select * from (
      select t.id, 5 + round((1 - extensions.word_similarity(typed, t.search_typos))::numeric, 6) as rank, lower(t.name) as sort_name
      from public.integration_types t
      where t.is_active and (p_type is null or t.type = p_type) and (p_category is null or t.category = p_category)
        and typed operator(extensions.<%) t.search_typos
    ) f where p_id is null or (f.rank, f.sort_name, f.id) > (p_rank, p_name, p_id)
    order by f.rank, f.sort_name, f.id limit missing;
    get diagnostics got = row_count;
    if got > 0 or p_rank is not null then
      return;
    end if;
  end if;
  if from_rank < 7 then
    some_words := private.some_words_query(typed, 2);
    return query select * from (
      select t.id, 6 + round((1 - ts_rank(t.search_tags, some_words))::numeric, 6) as rank, lower(t.name) as sort_name
      from public.integration_types t
      where t.is_active and (p_type is null or t.type = p_type) and (p_category is null or t.category = p_category)
        and t.search_tags @@ some_words
    ) f where p_id is null or (f.rank, f.sort_name, f.id) > (p_rank, p_name, p_id)
    order by f.rank, f.sort_name, f.id limit missing;
    get diagnostics got = row_count;
    if got > 0 or p_rank is not null then
      return;
    end if;
  end if;
  some_words := private.some_words_query(typed, 1);
  if missing > 0 and from_rank < 8 then
    return query select t.id, 7.0, lower(t.name) from public.integration_types t
      where t.is_active and (p_type is null or t.type = p_type) and (p_category is null or t.category = p_category)
        and t.search_name @@ some_words
        and (from_rank < 7 or (lower(t.name), t.id) > (p_name, p_id))
      order by lower(t.name), t.id limit missing;
    get diagnostics got = row_count;
    missing := missing - got;
  end if;
  if missing > 0 and from_rank < 9 then
    return query select t.id, 8.0, lower(t.name) from public.integration_types t
      where t.is_active and (p_type is null or t.type = p_type) and (p_category is null or t.category = p_category)
        and t.search_tags @@ some_words and not t.search_name @@ some_words
        and (from_rank < 8 or (lower(t.name), t.id) > (p_name, p_id))
      order by lower(t.name), t.id limit missing;
    get diagnostics got = row_count;
    missing := missing - got;
  end if;
end $$;

create function public.list_integration_types(
  p_type text default null, p_category text default null, p_q text default null,
  p_after text default null, p_limit integer default 50
) returns jsonb
language sql stable set search_path = '' as $$
  with found as materialized (
    select f.*, row_number() over (order by f.rank, f.sort_name, f.id) as place
    from private.found_types(
      p_type, p_category, p_q,
      (p_after::jsonb->>0)::numeric, p_after::jsonb->>1, (p_after::jsonb->>2)::uuid, p_limit + 1
    ) f
  )
  select jsonb_build_object(
    'items', coalesce(jsonb_agg(jsonb_build_object(
      'id', t.id, 'slug', t.slug, 'name', t.name, 'type', t.type, 'category', t.category, 'description', t.description,
      'icon_type', t.icon_type, 'tags', t.tags, 'auth_methods', t.auth_methods, 'source', t.source) order by f.place)
      filter (where f.place <= p_limit), '[]'),
    'next', case when count(*) > p_limit then
      (jsonb_agg(jsonb_build_array(f.rank, f.sort_name, f.id)) filter (where f.place = p_limit))->0 end
  ) from found f join public.integration_types t on t.id = f.id;
$$;

create function private.type_detail(p_slug text) returns jsonb
language sql stable set search_path = '' as $$
  select jsonb_build_object(
    'id', id, 'slug', slug, 'name', name, 'type', type, 'category', category, 'description', description,
    'icon_type', icon_type, 'tags', tags, 'auth_methods', auth_methods, 'source', source,
    'config_schema', config_schema, 'definition', definition)
  from public.integration_types where slug = p_slug and is_active;
$$;

create function public.get_integration_type(p_slug text) returns jsonb
language sql stable set search_path = '' as $$
  select private.type_detail(p_slug);
$$;

-- Who may call what: the catalogue is open, the rest needs a signed-in user.
revoke execute on all functions in schema private from public;
revoke execute on function
  public.list_integration_types(text, text, text, text, integer), public.get_integration_type(text),
  public.get_integration(uuid), public.list_integrations(text, text, text, text, text, text, text, integer),
  public.get_health_summary(uuid, text), public.get_overview(text),
  public.list_integration_logs(uuid, text, text, integer), public.list_health_metrics(uuid, text, integer),
  public.list_credentials(uuid)
  from public, anon, authenticated, service_role;
grant execute on function public.list_integration_types(text, text, text, text, integer), public.get_integration_type(text)
  to anon, authenticated;
grant execute on function
  public.get_integration(uuid), public.list_integrations(text, text, text, text, text, text, text, integer),
  public.get_health_summary(uuid, text), public.get_overview(text),
  public.list_integration_logs(uuid, text, text, integer), public.list_health_metrics(uuid, text, integer),
  public.list_credentials(uuid)
  to authenticated;
grant usage on schema private to anon;
grant execute on function private.found_types(text, text, text, numeric, text, uuid, integer) to anon, authenticated;
grant execute on function private.type_detail(text) to anon, authenticated, service_role;
grant execute on function
  private.type_json(public.integration_types), private.recent_json(uuid, uuid),
  private.integration_json(public.user_integrations), private.integration_detail(uuid, uuid),
  private.credentials_json(uuid, uuid),
  private.like_pattern(text), private.counts_json(uuid), private.window_start(text),
  private.rollups(uuid, uuid, text), private.owns(uuid)
  to authenticated, service_role;
