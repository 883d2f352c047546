-- ready -> claimed. The next requests in fair order, leased to this claim's token.
-- ARGV: count, lease_us, token, 1 where the claimer's process holds nothing else, dead batches that make a suspect,
--       '' or the only priorities that are taken, each between spaces: the claim ends before the first of another one.
-- Returns {now_us, 1 where suspects wait, how many, id, attempts, record, id, attempts, record, ...}, and after those of a
-- few their payloads, in the same order, which saves a lone request the asking.
local count, lease_us, token, is_alone = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4] == '1'
local suspect_after, only = tonumber(ARGV[5]), ARGV[6]
-- Records of another release are looked past, so many at a time and so many times.
local LOOK, LOOKS = 1000, 20
local FEW = 4

local function with_payloads(claimed, ids)
  claimed[3] = #ids
  if #ids == 0 or #ids > FEW then return claimed end
  for _, payload in ipairs(redis.call('HMGET', PAYLOADS, unpack(ids))) do claimed[#claimed + 1] = payload end
  return claimed
end

-- A claim that is asked again, since its answer was lost, gets what it took.
local before = redis.call('HGET', CLAIMS, token)
if before then
  local claimed, ids = { int(now_us), 0, 0 }, {} -- the time among the ids is nobody's
  for id in string.gmatch(before, '%S+') do
    local record = redis.call('HGET', JOBS, id)
    if holder_of(record) == token then
      local at = #claimed
      ids[#ids + 1] = id
      claimed[at + 1], claimed[at + 2] = id, redis.call('HGET', ATTEMPTS, id) or '0'
      claimed[at + 3] = record
    end
  end
  redis.call('ZADD', LEASES, int(now_us + lease_us), token)
  return with_payloads(claimed, ids)
end

-- What is taken leaves the queue only when it is known how much that is; the rest stays where it is.
local ids, records, flow_names = {}, {}, {}
local ask, looked, strangers, is_other_next = count, 0, 0, false
local function is_wanted(flow)
  if only == '' then return true end
  is_other_next = is_other_next or not string.find(only, ' ' .. string.match(flow, '[^:]*$') .. ' ', 1, true)
  return not is_other_next
end
for _ = 1, LOOKS do
  local names = redis.call('ZRANGE', READY, looked, looked + ask - 1)
  if #names == 0 then break end
  local left, gone = 0, {}
  for i, record in ipairs(redis.call('HMGET', JOBS, unpack(names))) do
    local flow = record and flow_of(record)
    if flow and #ids < count and is_wanted(flow) then
      local at = #ids + 1
      ids[at], records[at], flow_names[at] = names[i], record, flow
    elseif record then
      left = left + 1
      if not flow then strangers = strangers + 1 end
    else
      gone[#gone + 1] = names[i] -- whose record somebody deleted by hand
    end
  end
  if #gone > 0 then redis.call('ZREM', READY, unpack(gone)) end
  looked = looked + #names - #gone
  if #ids == count or is_other_next or #names < ask or left == 0 then break end
  ask = LOOK
end

local attempts, suspects_wait, take = {}, 0, #ids
if #ids > 0 and redis.call('HLEN', ATTEMPTS) > 0 then
  attempts = redis.call('HMGET', ATTEMPTS, unpack(ids))
  for i = 1, #ids do
    if tonumber(attempts[i] or '0') >= suspect_after then
      take = (i == 1 and is_alone) and 1 or i - 1
      suspects_wait = (i == 1 and is_alone) and 0 or 1
      break
    end
  end
end
for i = #ids, take + 1, -1 do ids[i] = nil end
if take == looked and take > 0 then
  redis.call('ZREMRANGEBYRANK', READY, 0, take - 1)
elseif take > 0 then
  redis.call('ZREM', READY, unpack(ids))
end
-- What another release has to serve does not wake this one.
local waits = redis.call('ZCARD', READY) > strangers
local claimed = { int(now_us), suspects_wait, 0 }
if take > 0 then
  -- A flow whose last request has been served needs no tag: the virtual time has reached it.
  local vtime = tonumber(string.match(records[take], '|([^|]*)|[^|]*$'))
  local old = tonumber(redis.call('HGET', STATE, 'vtime') or '0')
  if vtime > old then redis.call('HSET', STATE, 'vtime', string.format('%.17g', vtime)) end
  local flows, seen, jobs = {}, {}, {}
  for i = 1, take do
    jobs[2 * i - 1], jobs[2 * i] = ids[i], records[i] .. token
    local flow = flow_names[i]
    if not seen[flow] then
      seen[flow] = true
      flows[#flows + 1] = flow
    end
    local at = 3 * i + 1
    claimed[at], claimed[at + 1], claimed[at + 2] = ids[i], attempts[i] or '0', records[i]
  end
  redis.call('HSET', JOBS, unpack(jobs))
  redis.call('ZADD', LEASES, int(now_us + lease_us), token)
  redis.call('HSET', CLAIMS, token, '@' .. int(now_us) .. ' ' .. table.concat(ids, ' '))
  redis.call('HSET', HELD, token, take)
  for i, last in ipairs(redis.call('HMGET', FLOWS, unpack(flows))) do
    if last and tonumber(last) <= math.max(vtime, old) then redis.call('HDEL', FLOWS, flows[i]) end
  end
end
if waits then wake(BACKLOG) end
return with_payloads(claimed, ids)
