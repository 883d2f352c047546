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

local bytes = 0
for i = 0, count - 1 do bytes = bytes + #ARGV[FIRST + 4 * i + 3] end
local depth = redis.call('ZCARD', READY)
local state = redis.call('HMGET', STATE, 'vtime', 'bytes')
if depth + count > max_depth then
  redis.call('HINCRBY', STATE, 'rejected', count)
  return { 'full', 'depth', depth }
end
if tonumber(state[2] or '0') + bytes > max_bytes then
  redis.call('HINCRBY', STATE, 'rejected', count)
  return { 'full', 'bytes', depth }
end

local tag = math.max(tonumber(state[1] or '0'), tonumber(redis.call('HGET', FLOWS, flow) or '0'))
local jobs, ready, deadlines, ids = {}, {}, {}, {}
for i = 0, count - 1 do
  local at = FIRST + 4 * i
  local id, cost, left_us, payload = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2]), ARGV[at + 3]
  local deadline_us = left_us > 0 and now_us + left_us or 0
  tag = tag + math.max(1, tonumber(cost)) / weight
  ids[i + 1] = id
  jobs[2 * i + 1] = id
  jobs[2 * i + 2] = table.concat({ '1', int(now_us), int(deadline_us), cost, flow, payload }, '|')
  ready[2 * i + 1] = string.format('%.17g', tag)
  ready[2 * i + 2] = id
  if deadline_us > 0 then
    deadlines[#deadlines + 1] = int(deadline_us)
    deadlines[#deadlines + 1] = id
  end
end
redis.call('HSET', JOBS, unpack(jobs))
redis.call('ZADD', READY, unpack(ready))
if #deadlines > 0 then redis.call('ZADD', DEADLINES, unpack(deadlines)) end
redis.call('HSET', FLOWS, flow, string.format('%.17g', tag))
redis.call('HINCRBY', STATE, 'bytes', int(bytes))
redis.call('HINCRBY', STATE, 'submitted', count)
if fingerprint ~= '' then
  redis.call('SET', KEYS[RESULTS + 1], fingerprint .. ' ' .. table.concat(ids, ' '), 'EX', ARGV[6])
end
wake()
return { 'queued', depth + count }
