-- Finds the requests that reap.lua has to decide on: those of expired leases, and waiting ones past their deadline.
-- KEYS: jobs ready leases claims attempts deadlines
-- Uses: held
-- ARGV: the largest number of each
-- Returns {{token, id, attempts, token, id, attempts, ...}, {id, ...}}
local count = tonumber(ARGV[1])
local lost = {}
for _, token in ipairs(redis.call('ZRANGEBYSCORE', LEASES, '-inf', int(now_us), 'LIMIT', 0, count)) do
  if #lost >= 3 * count then break end
  local ids = words(redis.call('HGET', CLAIMS, token) or '')
  table.remove(ids, 1) -- the time of the claim
  local bytes = read_held({ token })[token] or {}
  local attempts = #ids > 0 and redis.call('HMGET', ATTEMPTS, unpack(ids)) or {}
  for i, id in ipairs(ids) do
    if bytes[i] == HOLDS and #lost < 3 * count then
      local at = #lost
      lost[at + 1], lost[at + 2], lost[at + 3] = token, id, attempts[i] or '0'
    end
  end
end
local late, from = {}, 0
while #late < count do
  local ids = redis.call('ZRANGEBYSCORE', DEADLINES, '-inf', int(now_us), 'LIMIT', from, count)
  for _, id in ipairs(ids) do
    -- A claimed request is left to its worker, or to the end of its lease.
    if #late < count and redis.call('ZSCORE', READY, id) and flow_of(redis.call('HGET', JOBS, id) or '') then
      late[#late + 1] = id
    end
  end
  if #ids < count then break end
  from = from + count
end
return { lost, late }
