-- Submit -> ready: queues all requests of the call, or none. Their payloads are in PAYLOADS already, written by the same
-- transaction; this script deletes the payloads of requests that are not queued.
-- KEYS: ready jobs payloads state tenants flows deadlines webhook_urls wake
-- Uses: charge
-- Extra keys: the idempotency key, if fingerprint is not ''.
-- ARGV: max_depth, max_bytes, flow, weight, fingerprint, fingerprint_ttl_s; limits of the tenant, 0 for none: max_in_flight,
--       max_bytes, microseconds per request at its rate, burst; the number of requests; then per request: id, cost (at least
--       1), bytes of its payload; then for each request that has any of these: id, microseconds until its deadline or 0,
--       webhook URL or '', 1 if it has an event stream, else 0.
-- Returns {'queued', now_us} | {'full', limit, present amount, microseconds to wait or -1} | {'same', ids} | {'conflict'}
local max_depth, max_bytes, flow, weight = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local tenant_in_flight, tenant_bytes = tonumber(ARGV[7]), tonumber(ARGV[8])
local interval_us, burst = tonumber(ARGV[9]), tonumber(ARGV[10])
local fingerprint, count, FIRST, WIDTH = ARGV[5], tonumber(ARGV[11]), 12, 3

-- An unfinished id is queued once: Celery may deliver a message twice, with the same id and payload.
local ids = {}
for i = 0, count - 1 do ids[i + 1] = ARGV[FIRST + WIDTH * i] end
local known, fresh = redis.call('HMGET', JOBS, unpack(ids)), ids
for i = 1, count do
  if known[i] then
    fresh = {}
    for j, id in ipairs(ids) do
      if not known[j] then fresh[#fresh + 1] = id end
    end
    break
  end
end
local bytes, cost = 0, 0
for i = 1, count do
  local at = FIRST + WIDTH * (i - 1)
  if not known[i] then bytes, cost = bytes + ARGV[at + 2], cost + ARGV[at + 1] end
end
local function drop(reply)
  if #fresh > 0 then redis.call('HDEL', PAYLOADS, unpack(fresh)) end
  return reply
end

if fingerprint ~= '' then
  local seen = redis.call('GET', KEYS[EXTRA + 1])
  if seen then
    local print, first = string.match(seen, '^(%S+) (.*)$')
    return drop(print == fingerprint and { 'same', first } or { 'conflict' })
  end
end
if #fresh == 0 then return { 'queued', int(now_us) } end

local tenant = string.match(flow, '^(.*):')
local state = redis.call('HMGET', STATE, 'vtime', 'bytes')
local has = redis.call('HMGET', TENANTS, 'n:' .. tenant, 'b:' .. tenant, 'r:' .. tenant)
local depth = redis.call('ZCARD', READY)
local function full(what, present, wait_us)
  redis.call('HINCRBY', STATE, 'rejected_' .. what, #fresh)
  return drop({ 'full', what, present, int(wait_us or -1) })
end
if depth + #fresh > max_depth then return full('depth', depth) end
if tonumber(state[2] or '0') + bytes > max_bytes then return full('bytes', state[2] or '0') end
if tenant_in_flight > 0 and tonumber(has[1] or '0') + #fresh > tenant_in_flight then
  return full('tenant_in_flight', has[1] or '0')
end
if tenant_bytes > 0 and tonumber(has[2] or '0') + bytes > tenant_bytes then
  return full('tenant_bytes', has[2] or '0')
end
-- The generic cell rate algorithm (ITU-T I.371): r:<tenant> is the theoretical arrival time of its next request.
local at_us
if interval_us > 0 then
  at_us = math.max(now_us, tonumber(has[3] or '0')) + #fresh * interval_us
  local ahead_us = at_us - now_us - burst * interval_us
  if ahead_us > 0 then return full('tenant_rate', #fresh, ahead_us) end
end

local tag = math.max(tonumber(state[1] or '0'), tonumber(redis.call('ZSCORE', FLOWS, flow) or '0'))
local is_fresh, deadline_of, followed, deadlines, webhooks = {}, {}, {}, {}, {}
local MORE = FIRST + WIDTH * count
if #ARGV >= MORE then
  for _, id in ipairs(fresh) do is_fresh[id] = true end
end
for at = MORE, #ARGV, 4 do
  local id, left_us, url = ARGV[at], tonumber(ARGV[at + 1]), ARGV[at + 2]
  if is_fresh[id] then
    if left_us > 0 then
      deadline_of[id] = int(now_us + left_us)
      deadlines[#deadlines + 1], deadlines[#deadlines + 2] = deadline_of[id], id
    end
    if url ~= '' then webhooks[#webhooks + 1], webhooks[#webhooks + 2] = id, url end
    followed[id] = ARGV[at + 3]
  end
end
local jobs, ready, flow_part, created = {}, {}, '|' .. flow .. '|', '|' .. int(now_us) .. '|'
for i = 1, count do
  if not known[i] then
    local at, next = FIRST + WIDTH * (i - 1), #jobs + 1
    local id, tokens = ARGV[at], ARGV[at + 1]
    tag = tag + tokens / weight
    local place = string.format('%.17g', tag)
    jobs[next] = id
    jobs[next + 1] = '3|' .. (followed[id] or '0') .. '|' .. tokens .. flow_part .. ARGV[at + 2] .. created ..
                     (deadline_of[id] or '0') .. '|' .. place
    ready[next], ready[next + 1] = place, id
  end
end
redis.call('HSET', JOBS, unpack(jobs))
redis.call('ZADD', READY, unpack(ready))
if #deadlines > 0 then redis.call('ZADD', DEADLINES, unpack(deadlines)) end
if #webhooks > 0 then redis.call('HSET', WEBHOOK_URLS, unpack(webhooks)) end
redis.call('ZADD', FLOWS, string.format('%.17g', tag), flow)
redis.call('HINCRBY', STATE, 'bytes', int(bytes))
redis.call('HINCRBY', STATE, 'cost', int(cost))
redis.call('HINCRBY', STATE, 'submitted', #fresh)
charge(flow, #fresh, bytes)
if at_us then redis.call('HSET', TENANTS, 'r:' .. tenant, int(at_us)) end
if fingerprint ~= '' then
  redis.call('SET', KEYS[EXTRA + 1], fingerprint .. ' ' .. table.concat(ids, ' '), 'EX', ARGV[6])
end
wake(WAKE)
return { 'queued', int(now_us) }
