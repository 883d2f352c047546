-- claimed -> claimed. A longer lease for what is still held.
-- ARGV: lease_us, then per request: id, token. Returns the ids that are no longer held.
local expiry = int(now_us + tonumber(ARGV[1]))
local ids = {}
for at = 2, #ARGV, 2 do ids[#ids + 1] = ARGV[at] end
local lost, mine, leases = {}, {}, {}
for i, owner in ipairs(redis.call('HMGET', OWNERS, unpack(ids))) do
  if owner == ARGV[2 * i + 1] then
    mine[#mine + 1] = ids[i]
    leases[#leases + 1], leases[#leases + 2] = expiry, ids[i]
  else
    lost[#lost + 1] = ids[i]
  end
end
if #mine > 0 then
  redis.call('ZREM', LEASES, unpack(mine)) -- a delete first, for a full Redis 6.2
  redis.call('ZADD', LEASES, unpack(leases))
end
return lost
