-- When requests were claimed that do not wait, in us. ARGV: their ids. Returns '' for each that nobody holds.
local claimed, known = {}, {}
for i, record in ipairs(redis.call('HMGET', JOBS, unpack(ARGV))) do
  local _, at_us
  if record and flow_of(record) then _, at_us = holder_of(ARGV[i], record, known) end
  claimed[i] = at_us or ''
end
return claimed
