-- claimed -> ready, without counting an attempt: a worker that stops gives back what it has not started.
-- ARGV: per request: id, token. Returns how many were given back.
local ids, tokens = {}, {}
for at = 1, #ARGV, 2 do ids[#ids + 1], tokens[#tokens + 1] = ARGV[at], ARGV[at + 1] end
local found, held = find_held(ids, tokens), read_held(tokens)
local mine, records = {}, {}
for i, record in ipairs(redis.call('HMGET', JOBS, unpack(ids))) do
  if found[i] and record then
    mine[#mine + 1], records[#records + 1] = ids[i], record
    held[tokens[i]][found[i]] = LET_GO
  end
end
if #mine > 0 then
  to_front(mine, records)
  write_held(held)
end
return #mine
