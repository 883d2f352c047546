-- anything not ended -> finished as canceled. A worker that still holds it will find its finish refused.
-- ARGV: id, ttl_s, channel, result JSON, run JSON. Returns 1, or 0 where there is nothing to cancel.
local id = ARGV[1]
local record = redis.call('HGET', JOBS, id)
if not record then return 0 end
local job = parse(record)
redis.call('ZREM', READY, id)
forget({ id }, #job.payload)
store(KEYS[RESULTS + 1], ARGV[2], id, job, 'REVOKED', ARGV[4], 'canceled', ARGV[5])
redis.call('HINCRBY', STATE, 'canceled', 1)
redis.call('PUBLISH', ARGV[3], id)
return 1
