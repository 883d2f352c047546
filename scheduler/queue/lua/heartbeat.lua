-- Stores the heartbeat of a worker, and deletes workers without one for stale_us.
-- KEYS: workers info
-- ARGV: worker, heartbeat as JSON, stale_us
-- Returns how many workers were deleted.
redis.call('ZREM', WORKERS, ARGV[1]) -- a delete first, for a full Redis 6.2
redis.call('ZADD', WORKERS, int(now_us), ARGV[1])
redis.call('HSET', INFO, ARGV[1], ARGV[2])
local silent = redis.call('ZRANGEBYSCORE', WORKERS, '-inf', int(now_us - tonumber(ARGV[3])))
if #silent > 0 then
  redis.call('ZREM', WORKERS, unpack(silent))
  redis.call('HDEL', INFO, unpack(silent))
end
return #silent
