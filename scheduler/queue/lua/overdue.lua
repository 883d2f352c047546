-- What `reap` has to look at: leases that ran out, and waiting requests whose deadline has passed.
-- ARGV: count. Returns {{id, attempts, ...}, {id, ...}}
local expired = redis.call('ZRANGEBYSCORE', LEASES, '-inf', int(now_us), 'LIMIT', 0, ARGV[1])
local lost = {}
if #expired > 0 then
  for i, attempts in ipairs(redis.call('HMGET', ATTEMPTS, unpack(expired))) do
    lost[2 * i - 1], lost[2 * i] = expired[i], attempts or '0'
  end
end
local late = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', DEADLINES, '-inf', int(now_us), 'LIMIT', 0, ARGV[1])) do
  -- Claimed in time: its worker decides, or its lease runs out.
  if not redis.call('ZSCORE', LEASES, id) then late[#late + 1] = id end
end
return { lost, late }
