-- claimed -> ready | finished, for requests whose worker is gone; ready -> finished past the deadline.
-- ARGV: ttl_s, channel, then per request: id, 'retry'|'dead'|'expired', result JSON, run JSON. Every verdict is
-- checked again here, since another worker may have reaped in between. Returns how many it applied.
local ttl_s, channel, FIRST = ARGV[1], ARGV[2], 3
local again, records, ended = {}, {}, {}
for at = FIRST, #ARGV, 4 do
  local id, verdict = ARGV[at], ARGV[at + 1]
  local record = redis.call('HGET', JOBS, id)
  local due
  if verdict == 'expired' then
    due = redis.call('ZREM', READY, id) == 1
  else
    local expiry = redis.call('ZSCORE', LEASES, id)
    due = expiry and tonumber(expiry) <= now_us
  end
  if due and record then
    if verdict == 'retry' then
      redis.call('ZREM', LEASES, id)
      redis.call('HDEL', OWNERS, id)
      redis.call('HINCRBY', ATTEMPTS, id, 1)
      again[#again + 1], records[#again + 1] = id, record
    else
      local job = parse(record)
      local celery_status, status = 'FAILURE', 'failed'
      if verdict == 'expired' then celery_status, status = 'REVOKED', 'expired' end
      forget({ id }, #job.payload)
      store(KEYS[RESULTS + 1 + (at - FIRST) / 4], ttl_s, id, job, celery_status, ARGV[at + 2], status, ARGV[at + 3])
      if verdict == 'dead' then
        redis.call('LPUSH', DEAD, table.concat({ '{"id":"', id, '","kwargs":', job.payload, ',"run":', ARGV[at + 3], '}' }))
        redis.call('LTRIM', DEAD, 0, DEAD_LETTERS_KEPT - 1)
      end
      redis.call('HINCRBY', STATE, status, 1)
      ended[#ended + 1] = id
    end
  end
end
if #again > 0 then
  to_front(again, records)
  redis.call('HINCRBY', STATE, 'redelivered', #again)
end
if #ended > 0 then redis.call('PUBLISH', channel, table.concat(ended, ' ')) end
return #again + #ended
