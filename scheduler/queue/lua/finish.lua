-- claimed -> finished, a whole batch at once. The first finish of a request wins; a late one is counted and dropped.
-- ARGV: ttl_s, busy_us, channel, then per request: id, token, Celery status, result JSON, status, run JSON.
-- Returns 1 or 0 per request.
local ttl_s, busy_us, channel, FIRST, WIDTH = ARGV[1], tonumber(ARGV[2]), ARGV[3], 4, 6
local ids = {}
for at = FIRST, #ARGV, WIDTH do ids[#ids + 1] = ARGV[at] end
local owners = redis.call('HMGET', OWNERS, unpack(ids))
local records = redis.call('HMGET', JOBS, unpack(ids))

local stored, ended, jobs, bytes = {}, {}, {}, 0
for i, id in ipairs(ids) do
  -- The same id twice in one call is one result, like any other second finish.
  local mine = owners[i] == ARGV[FIRST + WIDTH * (i - 1) + 1] and records[i] and not jobs[id]
  stored[i] = mine and 1 or 0
  if mine then
    jobs[id] = parse(records[i])
    ended[#ended + 1] = id
    bytes = bytes + #jobs[id].payload
  end
end
forget(ended, bytes)

local counts = { late = #ids - #ended }
for i, id in ipairs(ids) do
  if stored[i] == 1 then
    local at = FIRST + WIDTH * (i - 1)
    local status = ARGV[at + 4]
    counts[status] = (counts[status] or 0) + 1
    store(KEYS[RESULTS + i], ttl_s, id, jobs[id], ARGV[at + 2], ARGV[at + 3], status, ARGV[at + 5])
  end
end
for name, count in pairs(counts) do
  if count > 0 then redis.call('HINCRBY', STATE, name, count) end
end
if #ended > 0 then
  if busy_us > 0 then
    local each = busy_us / #ended
    local old = tonumber(redis.call('HGET', STATE, 'service_us') or each)
    redis.call('HSET', STATE, 'service_us', string.format('%.1f', 0.8 * old + 0.2 * each))
  end
  redis.call('PUBLISH', channel, table.concat(ended, ' '))
end
return stored
