-- claimed -> ready, without counting an attempt: a worker that stops gives back what it has not started.
-- ARGV: per request: id, token. Returns how many were given back.
local ids = {}
for at = 1, #ARGV, 2 do ids[#ids + 1] = ARGV[at] end
local mine, records, tokens = {}, {}, {}
for i, record in ipairs(redis.call('HMGET', JOBS, unpack(ids))) do
  local owner = holder_of(record)
  if owner and owner == ARGV[2 * i] then
    local at = #mine + 1
    mine[at], records[at], tokens[at] = ids[i], record, owner
  end
end
if #mine > 0 then
  to_front(mine, records)
  let_go(counted(tokens))
end
return #mine
