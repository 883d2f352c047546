-- ready -> claimed. The next requests in fair order, leased to this claim's token.
-- ARGV: count, lease_us, token, 1 where the claimer's process holds nothing else, dead batches that make a suspect.
-- Returns {now_us, 1 where suspects wait, id, attempts, record, id, attempts, record, ...}
local count, lease_us, token, is_alone = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4] == '1'
local suspect_after = tonumber(ARGV[5])
-- Records of another release are looked past, so many at a time and so many times.
local LOOK, LOOKS = 1000, 20

-- A claim that is asked again, since its answer was lost, gets what it took.
local before = redis.call('HGET', CLAIMS, token)
if before then
  local claimed = { int(now_us), 0 }
  for id in string.gmatch(before, '%S+') do
    if redis.call('HGET', OWNERS, id) == token then
      local at = #claimed
      claimed[at + 1], claimed[at + 2] = id, redis.call('HGET', ATTEMPTS, id) or '0'
      claimed[at + 3] = redis.call('HGET', JOBS, id)
    end
  end
  redis.call('ZADD', LEASES, int(now_us + lease_us), token)
  return claimed
end

local ids, tags, records, back = {}, {}, {}, {}
local ask, waits = count, false
for _ = 1, LOOKS do
  local popped = redis.call('ZPOPMIN', READY, ask)
  if #popped == 0 then break end
  local names, strangers = {}, #back
  for i = 1, #popped, 2 do names[#names + 1] = popped[i] end
  for i, record in ipairs(redis.call('HMGET', JOBS, unpack(names))) do
    local is_ours = record and string.find(record, '^1|%d+|%d+|%d+|[^|]*|[^|]*|') == 1
    if is_ours and #ids < count then
      ids[#ids + 1], tags[#tags + 1], records[#records + 1] = names[i], popped[2 * i], record
    elseif record then
      waits = waits or is_ours
      back[#back + 1] = { popped[2 * i], names[i] }
    end
  end
  if #ids == count or #names < ask or #back == strangers then break end
  ask = LOOK
end
-- What another release has to serve does not wake this one.
waits = waits or redis.call('ZCARD', READY) > 0

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
  for i = take + 1, #ids do back[#back + 1] = { tags[i], ids[i] } end
  waits = waits or take < #ids
end
for _, entry in ipairs(back) do redis.call('ZADD', READY, entry[1], entry[2]) end
local claimed = { int(now_us), suspects_wait }
if take > 0 then
  -- A flow whose last request has been served needs no tag: the virtual time has reached it.
  local vtime = tonumber(tags[take])
  local old = tonumber(redis.call('HGET', STATE, 'vtime') or '0')
  if vtime > old then redis.call('HSET', STATE, 'vtime', string.format('%.17g', vtime)) end
  local flows, seen, owners = {}, {}, {}
  for i = 1, take do
    owners[2 * i - 1], owners[2 * i] = ids[i], token
    local flow = string.match(records[i], '^1|%d+|%d+|%d+|[^|]*|([^|]*)|')
    if not seen[flow] then
      seen[flow] = true
      flows[#flows + 1] = flow
    end
    local at = 3 * i
    claimed[at], claimed[at + 1], claimed[at + 2] = ids[i], attempts[i] or '0', records[i]
  end
  redis.call('HSET', OWNERS, unpack(owners))
  redis.call('ZADD', LEASES, int(now_us + lease_us), token)
  redis.call('HSET', CLAIMS, token, table.concat(ids, ' ', 1, take))
  redis.call('HSET', HELD, token, take)
  for i, last in ipairs(redis.call('HMGET', FLOWS, unpack(flows))) do
    if last and tonumber(last) <= math.max(vtime, old) then redis.call('HDEL', FLOWS, flows[i]) end
  end
end
if waits then wake(BACKLOG) end
return claimed
