-- submit -> ready. All requests of the call are queued, or none is.
-- ARGV: max_depth, max_bytes, flow, weight, fingerprint, fingerprint_ttl_s, and of the tenant: max_in_flight,
--       max_bytes, microseconds from one request to the next at its rate, burst, each 0 for no limit; then per request:
--       id, cost, microseconds to its deadline or 0, webhook URL or '', payload. KEYS[RESULTS + 1] is the idempotency
--       key where fingerprint is not ''.
-- Returns {'queued'} | {'full', what, how much there is, microseconds to wait or -1} | {'same', ids} | {'conflict'}
local max_depth, max_bytes, flow, weight = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local tenant_in_flight, tenant_bytes = tonumber(ARGV[7]), tonumber(ARGV[8])
local interval_us, burst = tonumber(ARGV[9]), tonumber(ARGV[10])
local fingerprint, FIRST, WIDTH = ARGV[5], 11, 5
local count = (#ARGV - FIRST + 1) / WIDTH

if fingerprint ~= '' then
  local seen = redis.call('GET', KEYS[RESULTS + 1])
  if seen then
    local print, ids = string.match(seen, '^(%S+) (.*)$')
    if print == fingerprint then return { 'same', ids } end
    return { 'conflict' }
  end
end

-- An id that has not ended is taken in once: a Celery message that is delivered again brings it again.
local ids = {}
for i = 0, count - 1 do ids[i + 1] = ARGV[FIRST + WIDTH * i] end
local known = redis.call('HMGET', JOBS, unpack(ids))
local bytes, cost, fresh = 0, 0, 0
for i = 0, count - 1 do
  if not known[i + 1] then
    local at = FIRST + WIDTH * i
    bytes, cost, fresh = bytes + #ARGV[at + 4], cost + math.max(1, tonumber(ARGV[at + 1])), fresh + 1
  end
end
if fresh == 0 then return { 'queued' } end

local tenant = string.match(flow, '^(.*):')
local state = redis.call('HMGET', STATE, 'vtime', 'bytes')
local has = redis.call('HMGET', TENANTS, 'n:' .. tenant, 'b:' .. tenant, 'r:' .. tenant)
local depth = redis.call('ZCARD', READY)
local function full(what, present, wait_us)
  redis.call('HINCRBY', STATE, 'rejected_' .. what, fresh)
  return { 'full', what, present, int(wait_us or -1) }
end
if depth + fresh > max_depth then return full('depth', depth) end
if tonumber(state[2] or '0') + bytes > max_bytes then return full('bytes', state[2] or '0') end
if tenant_in_flight > 0 and tonumber(has[1] or '0') + fresh > tenant_in_flight then
  return full('tenant_in_flight', has[1] or '0')
end
if tenant_bytes > 0 and tonumber(has[2] or '0') + bytes > tenant_bytes then
  return full('tenant_bytes', has[2] or '0')
end
-- The generic cell rate algorithm (ITU-T I.371): r: is when the tenant will have been idle for as long as it ran ahead.
local at_us
if interval_us > 0 then
  at_us = math.max(now_us, tonumber(has[3] or '0')) + fresh * interval_us
  local ahead_us = at_us - now_us - burst * interval_us
  if ahead_us > 0 then return full('tenant_rate', fresh, ahead_us) end
end

local tag = math.max(tonumber(state[1] or '0'), tonumber(redis.call('HGET', FLOWS, flow) or '0'))
local jobs, ready, deadlines, webhooks = {}, {}, {}, {}
for i = 0, count - 1 do
  if not known[i + 1] then
    local at = FIRST + WIDTH * i
    local id, tokens, left_us = ARGV[at], math.max(1, tonumber(ARGV[at + 1])), tonumber(ARGV[at + 2])
    local deadline_us = left_us > 0 and now_us + left_us or 0
    tag = tag + tokens / weight
    local place = string.format('%.17g', tag)
    jobs[#jobs + 1] = id
    jobs[#jobs + 1] = table.concat({ '1', int(now_us), int(deadline_us), int(tokens), place, flow, ARGV[at + 4] }, '|')
    ready[#ready + 1], ready[#ready + 2] = place, id
    if deadline_us > 0 then deadlines[#deadlines + 1], deadlines[#deadlines + 2] = int(deadline_us), id end
    if ARGV[at + 3] ~= '' then webhooks[#webhooks + 1], webhooks[#webhooks + 2] = id, ARGV[at + 3] end
  end
end
redis.call('HSET', JOBS, unpack(jobs))
redis.call('ZADD', READY, unpack(ready))
if #deadlines > 0 then redis.call('ZADD', DEADLINES, unpack(deadlines)) end
if #webhooks > 0 then redis.call('HSET', WEBHOOK_URLS, unpack(webhooks)) end
redis.call('HSET', FLOWS, flow, string.format('%.17g', tag))
redis.call('HINCRBY', STATE, 'bytes', int(bytes))
redis.call('HINCRBY', STATE, 'cost', int(cost))
redis.call('HINCRBY', STATE, 'submitted', fresh)
charge(flow, fresh, bytes)
if at_us then redis.call('HSET', TENANTS, 'r:' .. tenant, int(at_us)) end
if fingerprint ~= '' then
  redis.call('SET', KEYS[RESULTS + 1], fingerprint .. ' ' .. table.concat(ids, ' '), 'EX', ARGV[6])
end
wake(WAKE)
return { 'queued' }
