-- ready -> claimed. The next requests in fair order, leased to this claim's token.
-- ARGV: count, lease_us, token, 1 where the claimer's process holds nothing else, dead batches that make a suspect,
--       '' or the only priorities that are taken, each between spaces: the claim ends before the first of another one,
--       microseconds and a number: less than so many are taken only where one has waited so long, and are else left to
--       whoever blocks on WAKE.
-- Returns {now_us, 1 where suspects wait, the ids, separated by spaces, their attempts, or {} where none has any}, and after
-- that the records and the payloads of a few, which saves a lone request the asking.
local count, lease_us, token, is_alone = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4] == '1'
local suspect_after, only = tonumber(ARGV[5]), ARGV[6]
local patience_us, enough = tonumber(ARGV[7]), tonumber(ARGV[8])
local FEW = 4
-- Redis searches a hash of few short values from its start, whoever asks for many of them; one value of more bytes makes
-- it a table.
local SHORT = 64

local function attempts_of(ids)
  return #ids > 0 and redis.call('HLEN', ATTEMPTS) > 0 and redis.call('HMGET', ATTEMPTS, unpack(ids)) or {}
end

local function answer(said, ids, attempts, suspects_wait)
  local reply = { int(now_us), suspects_wait, said, attempts }
  if #ids > 0 and #ids <= FEW then
    reply[5], reply[6] = redis.call('HMGET', JOBS, unpack(ids)), redis.call('HMGET', PAYLOADS, unpack(ids))
  end
  return reply
end

redis.call('ZREM', LEASES, token) -- a delete first, for a full Redis 6.2

-- A claim that is asked again, since its answer was lost, gets what it took; '@' stands for what it no longer holds.
local before = redis.call('HGET', CLAIMS, token)
if before then
  local ids, digits = words(string.match(before, '^%S+ (.*)$')), redis.call('HGET', HELD, token) or ''
  for i = 1, #ids do
    if string.byte(digits, i) ~= HOLDS then ids[i] = '@' end
  end
  redis.call('ZADD', LEASES, int(now_us + lease_us), token)
  return answer(table.concat(ids, ' '), ids, attempts_of(ids), 0)
end

local ids = redis.call('ZRANGE', READY, 0, count - 1)
local take = #ids
if patience_us > 0 and take > 0 and take < enough then
  -- What has waited longest mostly is the next, or the last where newer ones came in between.
  local oldest_us = now_us
  for _, record in ipairs(redis.call('HMGET', JOBS, ids[1], ids[take])) do
    local created_us = record and string.match(record, '^3|%d|%d+|[^|]*|%d+|(%d+)|')
    oldest_us = math.min(oldest_us, tonumber(created_us or 0))
  end
  if now_us - oldest_us < patience_us then
    wake(WAKE) -- for an idle device: whatever woke us is gone
    return answer('', {}, {}, 0)
  end
end
if only ~= '' and take > 0 then
  for i, record in ipairs(redis.call('HMGET', JOBS, unpack(ids))) do
    local flow = record and flow_of(record)
    if flow and not string.find(only, ' ' .. string.match(flow, '[^:]*$') .. ' ', 1, true) then
      take = i - 1
      break
    end
  end
end
local attempts, suspects_wait = attempts_of(ids), 0
for i = 1, #attempts > 0 and take or 0 do
  if tonumber(attempts[i] or '0') >= suspect_after then
    take = (i == 1 and is_alone) and 1 or i - 1
    suspects_wait = (i == 1 and is_alone) and 0 or 1
    break
  end
end
for i = #ids, take + 1, -1 do ids[i], attempts[i] = nil, nil end

local said = table.concat(ids, ' ')
if take > 0 then
  local tag, old = redis.call('ZSCORE', READY, ids[take]), redis.call('HGET', STATE, 'vtime') or '0'
  local vtime = tonumber(tag) > tonumber(old) and tag or old
  redis.call('ZADD', LEASES, int(now_us + lease_us), token)
  redis.call('HSET', CLAIMS, token, '@' .. string.format('%0' .. SHORT .. '.0f', now_us) .. ' ' .. said)
  redis.call('HSET', HELD, token, string.rep('1', take) .. string.rep('0', SHORT + 1 - take))
  redis.call('ZADD', REACH, tag, token)
  redis.call('ZREMRANGEBYRANK', READY, 0, take - 1)
  -- A flow whose last request has been served needs no tag: the virtual time has reached it.
  redis.call('ZREMRANGEBYSCORE', FLOWS, '-inf', vtime)
  redis.call('HSET', STATE, 'vtime', vtime)
end
if redis.call('ZCARD', READY) > 0 then wake(BACKLOG) end
return answer(said, ids, attempts, suspects_wait)
