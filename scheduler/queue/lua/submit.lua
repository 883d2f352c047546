-- submit -> ready. All requests of the call are queued, or none is.
-- ARGV: max_depth, max_bytes, flow, weight, fingerprint, fingerprint_ttl_s, then per request: id, cost,
--       microseconds to its deadline or 0, payload. KEYS[13] is the idempotency key where fingerprint is not ''.
-- Returns {'queued', depth} | {'full', 'depth'|'bytes', depth} | {'same', ids} | {'conflict'}
local max_depth, max_bytes, flow, weight = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local fingerprint, FIRST = ARGV[5], 7
local count = (#ARGV - FIRST + 1) / 4

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
for i = 0, count - 1 do ids[i + 1] = ARGV[FIRST + 4 * i] end
local known = redis.call('HMGET', JOBS, unpack(ids))
local bytes, fresh = 0, 0
for i = 0, count - 1 do
  if not known[i + 1] then
    bytes = bytes + #ARGV[FIRST + 4 * i + 3]
    fresh = fresh + 1
  end
end
local depth = redis.call('ZCARD', READY)
local state = redis.call('HMGET', STATE, 'vtime', 'bytes')
if fresh == 0 then return { 'queued', depth } end
if depth + fresh > max_depth then
  redis.call('HINCRBY', STATE, 'rejected', fresh)
  return { 'full', 'depth', depth }
end
if tonumber(state[2] or '0') + bytes > max_bytes then
  redis.call('HINCRBY', STATE, 'rejected', fresh)
  return { 'full', 'bytes', depth }
end

local tag = math.max(tonumber(state[1] or '0'), tonumber(redis.call('HGET', FLOWS, flow) or '0'))
local jobs, ready, deadlines = {}, {}, {}
for i = 0, count - 1 do
  if not known[i + 1] then
    local at = FIRST + 4 * i
    local id, cost, left_us, payload = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2]), ARGV[at + 3]
    local deadline_us = left_us > 0 and now_us + left_us or 0
    tag = tag + math.max(1, tonumber(cost)) / weight
    local place = string.format('%.17g', tag)
    jobs[#jobs + 1] = id
    jobs[#jobs + 1] = table.concat({ '1', int(now_us), int(deadline_us), cost, place, flow, payload }, '|')
    ready[#ready + 1], ready[#ready + 2] = place, id
    if deadline_us > 0 then deadlines[#deadlines + 1], deadlines[#deadlines + 2] = int(deadline_us), id end
  end
end
redis.call('HSET', JOBS, unpack(jobs))
redis.call('ZADD', READY, unpack(ready))
if #deadlines > 0 then redis.call('ZADD', DEADLINES, unpack(deadlines)) end
redis.call('HSET', FLOWS, flow, string.format('%.17g', tag))
redis.call('HINCRBY', STATE, 'bytes', int(bytes))
redis.call('HINCRBY', STATE, 'submitted', fresh)
if fingerprint ~= '' then
  redis.call('SET', KEYS[RESULTS + 1], fingerprint .. ' ' .. table.concat(ids, ' '), 'EX', ARGV[6])
end
wake()
return { 'queued', depth + fresh }
