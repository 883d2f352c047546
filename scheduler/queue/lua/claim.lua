-- Ready -> claimed: takes the next requests in fair order, under one lease for this claim's token.
-- KEYS: ready jobs payloads leases claims held reach attempts flows state wake backlog
-- Uses: held
-- ARGV: count       the largest number of requests to take
--       lease_us
--       token       the attempt token of this claim
--       is_alone    1 if the process of the worker holds no other request, so that it may take a suspected poison request
--       suspect_after  number of attempts after which a request is a suspected poison request
--       priorities  '' for all, or the accepted ones, each between spaces; the requests before the first one of another
--                   priority are taken
--       patience_us, enough  if patience_us is not 0, fewer than `enough` requests are taken only if one of them has
--                   waited for patience_us; otherwise they are left to a process that blocks on WAKE
-- Returns {now_us, 1 if suspected poison requests wait, the ids, separated by spaces, their attempts or {} if all are 0}.
-- For at most FEW requests, their records and payloads follow, which saves a lone request another round trip.
local count, lease_us, token, is_alone = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4] == '1'
local suspect_after, priorities = tonumber(ARGV[5]), ARGV[6]
local patience_us, enough = tonumber(ARGV[7]), tonumber(ARGV[8])
local FEW = 4
-- Redis keeps a hash of few short values as a list, which it searches from its start for every field. A single value
-- longer than this, in bytes, makes it a hash table, so the values of CLAIMS and HELD are filled up with zeros.
local SHORT = 64

local function attempts_of(ids)
  return #ids > 0 and redis.call('HLEN', ATTEMPTS) > 0 and redis.call('HMGET', ATTEMPTS, unpack(ids)) or {}
end

local function reply_with(id_list, ids, attempts, suspects_wait)
  local reply = { int(now_us), suspects_wait, id_list, attempts }
  if #ids > 0 and #ids <= FEW then
    reply[5], reply[6] = redis.call('HMGET', JOBS, unpack(ids)), redis.call('HMGET', PAYLOADS, unpack(ids))
  end
  return reply
end

redis.call('ZREM', LEASES, token) -- a delete first, for a full Redis 6.2

-- If the reply to a claim was lost, the worker sends the claim again with the same token. The reply then contains what the
-- first call took, with '@' for each request that the claim no longer holds.
local before = redis.call('HGET', CLAIMS, token)
if before then
  local ids, digits = words(string.match(before, '^%S+ (.*)$')), redis.call('HGET', HELD, token) or ''
  for i = 1, #ids do
    if string.byte(digits, i) ~= HOLDS then ids[i] = '@' end
  end
  redis.call('ZADD', LEASES, int(now_us + lease_us), token)
  return reply_with(table.concat(ids, ' '), ids, attempts_of(ids), 0)
end

local ids = redis.call('ZRANGE', READY, 0, count - 1)
local take = #ids
if patience_us > 0 and take > 0 and take < enough then
  -- The request that has waited longest is usually the next one, or the last one if newer ones came in between.
  local oldest_us = now_us
  for _, record in ipairs(redis.call('HMGET', JOBS, ids[1], ids[take])) do
    local created_us = record and string.match(record, '^3|%d|%d+|[^|]*|%d+|(%d+)|')
    oldest_us = math.min(oldest_us, tonumber(created_us or 0))
  end
  if now_us - oldest_us < patience_us then
    wake(WAKE) -- wakes another worker, because this one has consumed the element
    return reply_with('', {}, {}, 0)
  end
end
if priorities ~= '' and take > 0 then
  for i, record in ipairs(redis.call('HMGET', JOBS, unpack(ids))) do
    local flow = record and flow_of(record)
    if flow and not string.find(priorities, ' ' .. string.match(flow, '[^:]*$') .. ' ', 1, true) then
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

local id_list = table.concat(ids, ' ')
if take > 0 then
  local tag, old = redis.call('ZSCORE', READY, ids[take]), redis.call('HGET', STATE, 'vtime') or '0'
  local vtime = tonumber(tag) > tonumber(old) and tag or old
  redis.call('ZADD', LEASES, int(now_us + lease_us), token)
  redis.call('HSET', CLAIMS, token, '@' .. string.format('%0' .. SHORT .. '.0f', now_us) .. ' ' .. id_list)
  redis.call('HSET', HELD, token, string.rep('1', take) .. string.rep('0', SHORT + 1 - take))
  redis.call('ZADD', REACH, tag, token)
  redis.call('ZREMRANGEBYRANK', READY, 0, take - 1)
  -- If the virtual time has reached the last request of a flow, the flow's next request starts at the virtual time, so
  -- its entry is not needed.
  redis.call('ZREMRANGEBYSCORE', FLOWS, '-inf', vtime)
  redis.call('HSET', STATE, 'vtime', vtime)
end
if redis.call('ZCARD', READY) > 0 then wake(BACKLOG) end
return reply_with(id_list, ids, attempts, suspects_wait)
