-- ready -> claimed. The next requests in fair order, each leased to this claim's attempt token.
-- ARGV: count, lease_us, token. Returns {now_us, id, attempts, record, id, attempts, record, ...}
local count, lease_us, token = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local popped = redis.call('ZPOPMIN', READY, count)
local claimed = { int(now_us) }
if #popped == 0 then return claimed end

local ids = {}
for i = 1, #popped, 2 do ids[#ids + 1] = popped[i] end
local records = redis.call('HMGET', JOBS, unpack(ids))
local attempts = redis.call('HMGET', ATTEMPTS, unpack(ids))

-- A flow whose last request has been served needs no tag: the virtual time has reached it.
local vtime = tonumber(popped[#popped])
local old = tonumber(redis.call('HGET', STATE, 'vtime') or '0')
if vtime > old then redis.call('HSET', STATE, 'vtime', string.format('%.17g', vtime)) end
local flows, seen = {}, {}
local leases, owners = {}, {}
local expiry = int(now_us + lease_us)
for i, id in ipairs(ids) do
  if records[i] then
    leases[#leases + 1], leases[#leases + 2] = expiry, id
    owners[#owners + 1], owners[#owners + 2] = id, token
    local flow = string.match(records[i], '^1|%d+|%d+|%d+|[^|]*|([^|]*)|')
    if not seen[flow] then
      seen[flow] = true
      flows[#flows + 1] = flow
    end
    local at = #claimed
    claimed[at + 1], claimed[at + 2], claimed[at + 3] = id, attempts[i] or '0', records[i]
  end
end
if #flows == 0 then return claimed end
redis.call('ZADD', LEASES, unpack(leases))
redis.call('HSET', OWNERS, unpack(owners))
for i, last in ipairs(redis.call('HMGET', FLOWS, unpack(flows))) do
  if last and tonumber(last) <= math.max(vtime, old) then redis.call('HDEL', FLOWS, flows[i]) end
end
if redis.call('ZCARD', READY) > 0 then wake() end
return claimed
