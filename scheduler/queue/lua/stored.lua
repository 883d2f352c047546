-- What `finish` began and MSET went on with: the documents of a batch have been written, those that were refused too.
-- ARGV: ttl_s, channel, the ids of the batch, separated by spaces.
local ttl_s, channel = ARGV[1], ARGV[2]
local refused, before = {}, redis.call('LRANGE', REFUSED, 0, -1)
for at = 1, #before, 3 do
  local id, document, left_ms = before[at], before[at + 1], tonumber(before[at + 2])
  refused[id] = true
  redis.call('DEL', result_key(id))
  if left_ms ~= -2 then redis.call('SET', result_key(id), document) end
  if left_ms > 0 then redis.call('PEXPIRE', result_key(id), left_ms) end
end
redis.call('DEL', REFUSED)

local keys, ids = {}, {}
for id in string.gmatch(ARGV[3], '%S+') do
  if not refused[id] then
    local at = #ids + 1
    keys[at], ids[at] = result_key(id), id
    redis.call('EXPIRE', keys[at], ttl_s)
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
