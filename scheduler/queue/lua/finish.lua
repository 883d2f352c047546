-- claimed -> finished, a whole batch at once. The first finish of a request wins; a late one is counted and dropped.
-- ARGV: ttl_s, busy_us, channel, then per request: id, token, status, head of the result document.
-- KEYS[RESULTS + requests + i] is the event stream of request i, where any may have one. Returns 1 or 0 per request.
local ttl_s, busy_us, channel, FIRST, WIDTH = ARGV[1], tonumber(ARGV[2]), ARGV[3], 4, 4
local ids = {}
for at = FIRST, #ARGV, WIDTH do ids[#ids + 1] = ARGV[at] end
local owners = redis.call('HMGET', OWNERS, unpack(ids))
local records = redis.call('HMGET', JOBS, unpack(ids))

local stored, ended, tokens, jobs = {}, {}, {}, {}
for i, id in ipairs(ids) do
  local job
  -- The same id twice in one call is one result, like any other second finish.
  if owners[i] == ARGV[FIRST + WIDTH * (i - 1) + 1] and records[i] and not jobs[id] then job = parse(records[i]) end
  stored[i] = 0
  if job then
    stored[i], jobs[id] = 1, job
    ended[#ended + 1], tokens[#tokens + 1] = id, owners[i]
  end
end
local cost = forget(ended, jobs)
let_go(counted(tokens))

local counts, document = { late = #ids - #ended }, nil
for i, id in ipairs(ids) do
  if stored[i] == 1 then
    local at = FIRST + WIDTH * (i - 1)
    local status = ARGV[at + 2]
    counts[status] = (counts[status] or 0) + 1
    document = store(KEYS[RESULTS + i], ttl_s, id, jobs[id], ARGV[at + 3], status, KEYS[RESULTS + #ids + i])
  end
end
for name, count in pairs(counts) do
  if count > 0 then redis.call('HINCRBY', STATE, name, count) end
end
if #ended > 0 and busy_us > 0 then
  local now = busy_us / math.max(1, cost)
  local old = tonumber(redis.call('HGET', STATE, 'us_per_token') or now)
  redis.call('HSET', STATE, 'us_per_token', string.format('%.6f', 0.8 * old + 0.2 * now))
end
announce(channel, ended, document)
return stored
