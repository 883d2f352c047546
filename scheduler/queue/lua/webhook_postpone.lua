-- Makes a webhook due later, unless it was deleted meanwhile.
-- KEYS: webhooks webhook_tries
-- ARGV: id, delay in us, number of tries that count
-- Returns 1, or 0 if there was no such webhook.
local id = ARGV[1]
if redis.call('ZREM', WEBHOOKS, id) == 0 then return 0 end -- a delete first, for a full Redis 6.2
redis.call('ZADD', WEBHOOKS, int(now_us + tonumber(ARGV[2])), id)
redis.call('HSET', WEBHOOK_TRIES, id, ARGV[3])
return 1
