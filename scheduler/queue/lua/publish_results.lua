-- Completes a finish of many requests, in the same transaction: finish.lua has run, HDEL has deleted their records and
-- payloads, and MSET has written their documents. Restores the requests that finish.lua refused, and publishes the others.
-- KEYS: jobs payloads refused
-- Uses: publish
-- ARGV: ttl_s, channel of results, the ids of the batch, separated by spaces
local ttl_s, channel = ARGV[1], ARGV[2]
local is_refused, refused = {}, redis.call('LRANGE', REFUSED, 0, -1)
for at = 1, #refused, 5 do
  local id, record, payload, document, left_ms = unpack(refused, at, at + 4)
  local key = result_key(id)
  is_refused[id] = true
  redis.call('DEL', key)
  if record ~= '' then redis.call('HSET', JOBS, id, record) end
  if payload ~= '' then redis.call('HSET', PAYLOADS, id, payload) end
  local left = tonumber(left_ms) -- as PTTL returns it: -2 if there was no result, -1 if it never expires
  if left == -1 or left > 0 then redis.call('SET', key, document) end
  if left > 0 then redis.call('PEXPIRE', key, left_ms) end
end
redis.call('DEL', REFUSED)

-- PEXPIREAT is the only form of EXPIRE that Redis does not rewrite for its append-only file, which would cost time.
local until_ms = int(now_us / 1000 + 1000 * ttl_s)
local keys, ids = {}, {}
for id in string.gmatch(ARGV[3], '%S+') do
  if not is_refused[id] then
    local at = #ids + 1
    keys[at], ids[at] = result_key(id), id
    redis.call('PEXPIREAT', keys[at], until_ms)
  end
end
if #ids == 0 then return end
-- A document is read and published only if somebody listens to it. The first is published in any case: if it reaches more
-- clients than have subscribed to its channel, somebody has subscribed to a pattern, and all are published.
local first = redis.call('GET', keys[1])
local receivers = redis.call('PUBLISH', keys[1], first)
local listeners = redis.call('PUBSUB', 'NUMSUB', unpack(keys))
local has_pattern = receivers > listeners[2]
for i = 3, #listeners, 2 do
  if has_pattern or listeners[i + 1] > 0 then
    redis.call('PUBLISH', listeners[i], redis.call('GET', listeners[i]))
  end
end
announce(channel, ids, first)
