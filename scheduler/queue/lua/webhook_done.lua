-- being told -> nothing: it was told, or never will be.
-- ARGV: id. KEYS[RESULTS + 1] is the hash id -> tries begun. Returns 1, or 0 where there was nothing.
redis.call('HDEL', WEBHOOK_URLS, ARGV[1])
redis.call('HDEL', KEYS[RESULTS + 1], ARGV[1])
return redis.call('ZREM', WEBHOOKS, ARGV[1])
