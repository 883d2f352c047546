-- What `finish` began and HDEL and MSET went on with: records and payloads of a batch are gone and its documents have been
-- written, those that were refused too. ARGV: ttl_s, channel, the ids of the batch, separated by spaces.
local ttl_s, channel = ARGV[1], ARGV[2]
local refused, before = {}, redis.call('LRANGE', REFUSED, 0, -1)
for at = 1, #before, 5 do
  local id, record, payload, document, left_ms = unpack(before, at, at + 4)
  local key = result_key(id)
  refused[id] = true
  redis.call('DEL', key)
  if record ~= '' then redis.call('HSET', JOBS, id, record) end
  if payload ~= '' then redis.call('HSET', PAYLOADS, id, payload) end
  local left = tonumber(left_ms) -- -2: there was none; -1: it has no end; 0: it ends now
  if left == -1 or left > 0 then redis.call('SET', key, document) end
  if left > 0 then redis.call('PEXPIRE', key, left_ms) end
end
redis.call('DEL', REFUSED)

-- The one form of EXPIRE that Redis need not translate for its log.
local until_ms = int(now_us / 1000 + 1000 * ttl_s)
local keys, ids = {}, {}
for id in string.gmatch(ARGV[3], '%S+') do
  if not refused[id] then
    local at = #ids + 1
    keys[at], ids[at] = result_key(id), id
    redis.call('PEXPIREAT', keys[at], until_ms)
  end
end
if #ids == 0 then return end
-- A document is read only for somebody who listens. The first is told in any case: where more hear it than have subscribed
-- to its channel, somebody listens to a pattern, and is told of all.
local first = redis.call('GET', keys[1])
local hear = redis.call('PUBLISH', keys[1], first)
local listeners = redis.call('PUBSUB', 'NUMSUB', unpack(keys))
local hears_all = hear > listeners[2]
for i = 3, #listeners, 2 do
  if hears_all or listeners[i + 1] > 0 then
    redis.call('PUBLISH', listeners[i], redis.call('GET', listeners[i]))
  end
end
announce(channel, ids, first)
