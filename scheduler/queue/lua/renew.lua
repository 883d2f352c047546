-- claimed -> claimed. A longer lease for the claims that hold any of these requests.
-- ARGV: lease_us, then per request: id, token. Returns the ids that are no longer held.
local expiry = int(now_us + tonumber(ARGV[1]))
local ids = {}
for at = 2, #ARGV, 2 do ids[#ids + 1] = ARGV[at] end
local lost, tokens = {}, {}
for i, record in ipairs(redis.call('HMGET', JOBS, unpack(ids))) do
  local owner = holder_of(record)
  if owner and owner == ARGV[2 * i + 1] then
    tokens[owner] = true
  else
    lost[#lost + 1] = ids[i]
  end
end
for token in pairs(tokens) do
  redis.call('ZREM', LEASES, token) -- a delete first, for a full Redis 6.2
  redis.call('ZADD', LEASES, expiry, token)
end
return lost
