-- being told -> due, later. Nothing where somebody else was done with it meanwhile.
-- ARGV: id, in how many us, tries that count. KEYS[RESULTS + 1] is the hash id -> tries begun. Returns 1 or 0.
local id = ARGV[1]
if redis.call('ZREM', WEBHOOKS, id) == 0 then return 0 end -- a delete first, for a full Redis 6.2
redis.call('ZADD', WEBHOOKS, int(now_us + tonumber(ARGV[2])), id)
redis.call('HSET', KEYS[RESULTS + 1], id, ARGV[3])
return 1
