-- due -> being told. What nobody is done with comes again, should its teller have been killed.
-- ARGV: count, how long it is the claimer's in us. KEYS[RESULTS + 1] is the hash id -> tries begun.
-- Returns {now_us, id, URL, tries, id, URL, tries, ...}
local TRIES = KEYS[RESULTS + 1]
local told = { int(now_us) }
local ids = redis.call('ZRANGEBYSCORE', WEBHOOKS, '-inf', int(now_us), 'LIMIT', 0, ARGV[1])
if #ids == 0 then return told end

redis.call('ZREM', WEBHOOKS, unpack(ids)) -- a delete first, for a full Redis 6.2
local again = int(now_us + tonumber(ARGV[2]))
for i, url in ipairs(redis.call('HMGET', WEBHOOK_URLS, unpack(ids))) do
  if url then
    local at = #told
    redis.call('ZADD', WEBHOOKS, again, ids[i])
    told[at + 1], told[at + 2], told[at + 3] = ids[i], url, redis.call('HINCRBY', TRIES, ids[i], 1)
  else
    redis.call('HDEL', TRIES, ids[i])
  end
end
return told
