-- Due -> being delivered. A delivery that nobody completes, because its sender died, becomes due again.
-- KEYS: webhooks webhook_urls webhook_tries
-- ARGV: maximum number, time in us after which they are due again
-- Returns {now_us, id, URL, tries, id, URL, tries, ...}
local reply = { int(now_us) }
local ids = redis.call('ZRANGEBYSCORE', WEBHOOKS, '-inf', int(now_us), 'LIMIT', 0, ARGV[1])
if #ids == 0 then return reply end

redis.call('ZREM', WEBHOOKS, unpack(ids)) -- a delete first, for a full Redis 6.2
local due_again_us = int(now_us + tonumber(ARGV[2]))
for i, url in ipairs(redis.call('HMGET', WEBHOOK_URLS, unpack(ids))) do
  if url then
    local at = #reply
    redis.call('ZADD', WEBHOOKS, due_again_us, ids[i])
    reply[at + 1], reply[at + 2], reply[at + 3] = ids[i], url, redis.call('HINCRBY', WEBHOOK_TRIES, ids[i], 1)
  else
    redis.call('HDEL', WEBHOOK_TRIES, ids[i])
  end
end
return reply
