-- When running requests were claimed.
-- KEYS: jobs
-- Uses: holder
-- ARGV: ids
-- Returns for each id the time of its claim in us, or '' if no claim holds it.
local claimed, cache = {}, {}
for i, record in ipairs(redis.call('HMGET', JOBS, unpack(ARGV))) do
  local _, at_us
  if record and flow_of(record) then _, at_us = holder_of(ARGV[i], record, cache) end
  claimed[i] = at_us or ''
end
return claimed
