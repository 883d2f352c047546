-- anything not ended -> finished as canceled. A worker that still holds it is told, and will find its finish refused.
-- ARGV: id, ttl_s, channel, head of the result document, channel for workers. KEYS[RESULTS + 2] is its event stream.
-- Returns 1, or 0 where there is nothing to cancel.
local id = ARGV[1]
local record = redis.call('HGET', JOBS, id)
local job = record and parse(record)
if not job then return 0 end
local owner = redis.call('HGET', OWNERS, id)
redis.call('ZREM', READY, id)
forget({ id }, { [id] = job })
let_go(counted({ owner }))
local document = store(KEYS[RESULTS + 1], ARGV[2], id, job, ARGV[4], 'canceled', KEYS[RESULTS + 2])
redis.call('HINCRBY', STATE, 'canceled', 1)
announce(ARGV[3], { id }, document)
if owner then redis.call('PUBLISH', ARGV[5], id) end
return 1
