-- claimed -> ready, without counting an attempt: a worker that stops gives back what it has not started.
-- ARGV: per request: id, token. Returns how many were given back.
local ids = {}
for at = 1, #ARGV, 2 do ids[#ids + 1] = ARGV[at] end
local mine, tokens = {}, {}
for i, owner in ipairs(redis.call('HMGET', OWNERS, unpack(ids))) do
  if owner and owner == ARGV[2 * i] then mine[#mine + 1], tokens[#tokens + 1] = ids[i], owner end
end
if #mine > 0 then
  local records = redis.call('HMGET', JOBS, unpack(mine))
  redis.call('HDEL', OWNERS, unpack(mine))
  let_go(counted(tokens))
  to_front(mine, records)
end
return #mine
