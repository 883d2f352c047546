-- Claimed -> claimed: a longer lease for the claims that hold any of these requests.
-- KEYS: leases
-- Uses: find_held
-- ARGV: lease_us, then per request: id, token
-- Returns the ids that are no longer held.
local expiry = int(now_us + tonumber(ARGV[1]))
local ids, tokens = {}, {}
for at = 2, #ARGV, 2 do ids[#ids + 1], tokens[#tokens + 1] = ARGV[at], ARGV[at + 1] end
local found = find_held(ids, tokens)
local lost, renewed = {}, {}
for i, id in ipairs(ids) do
  if found[i] then renewed[tokens[i]] = true else lost[#lost + 1] = id end
end
for token in pairs(renewed) do
  redis.call('ZREM', LEASES, token) -- a delete first, for a full Redis 6.2
  redis.call('ZADD', LEASES, expiry, token)
end
return lost
