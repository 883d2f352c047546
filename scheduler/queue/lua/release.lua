-- Claimed -> ready, without counting an attempt: a worker that stops returns what it has not started.
-- KEYS: jobs
-- Uses: find_held write_held requeue
-- ARGV: per request: id, token
-- Returns how many requests were returned.
local ids, tokens = {}, {}
for at = 1, #ARGV, 2 do ids[#ids + 1], tokens[#tokens + 1] = ARGV[at], ARGV[at + 1] end
local found, held = find_held(ids, tokens), read_held(tokens)
local released, records = {}, {}
for i, record in ipairs(redis.call('HMGET', JOBS, unpack(ids))) do
  if found[i] and record then
    released[#released + 1], records[#records + 1] = ids[i], record
    held[tokens[i]][found[i]] = LET_GO
  end
end
if #released > 0 then
  requeue(released, records)
  write_held(held)
end
return #released
