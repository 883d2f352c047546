-- claimed -> finished, a whole batch at once. The first finish of a request wins; a late one is counted and dropped.
-- ARGV: ttl_s, busy_us, channel, 1 where any may have an event stream, the ids, separated by spaces, how many runs, then per
-- run of requests alike: token, status, flow, how many, their tokens and bytes together, as their records have them; then,
-- where they are few, the result document of each. Those of many follow by MSET and `stored`, in the same transaction.
-- Returns the numbers of those that were late.
local ttl_s, busy_us, channel, may_stream, runs = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4] == '1', tonumber(ARGV[6])
local FIRST, WIDTH = 7, 6
local DOCUMENTS = FIRST + WIDTH * runs - 1
local has_documents = #ARGV > DOCUMENTS
redis.call('DEL', REFUSED) -- a delete first, for a full Redis 6.2
local ids = {}
for id in string.gmatch(ARGV[5], '%S+') do ids[#ids + 1] = id end
local records = redis.call('HMGET', JOBS, unpack(ids))

local statuses, ended, held, seen, counts, taken, i = {}, {}, {}, {}, {}, nothing(), 0
for at = FIRST, DOCUMENTS, WIDTH do
  local token, status, count, first = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 3]), i + 1
  local last, before = '|' .. token, #ended
  for _ = 1, count do
    i = i + 1
    local id = ids[i]
    -- At its end, without making a string of that.
    local record = records[i]
    local is_held = token ~= '' and record and string.find(record, last, #record - #last + 1, true)
    -- The same id twice in one call is one result, like any other second finish. Among many none comes twice.
    if is_held and not seen[id] then
      statuses[i], ended[#ended + 1] = status, id
      if has_documents then seen[id] = true end
    end
  end
  local mine = #ended - before
  if mine == count then
    -- Nobody else has ended any of them, so they took what whoever claimed them read.
    add_taken(taken, ARGV[at + 2], mine, tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5]))
  else
    for number = first, i do
      if statuses[number] then add_taken(taken, taken_by(records[number])) end
    end
  end
  if mine > 0 then held[token], counts[status] = (held[token] or 0) + mine, (counts[status] or 0) + mine end
end
counts.late = #ids - #ended
forget(ended, taken)
let_go(held)

local refused, rest = {}, (has_documents or may_stream or counts.late > 0) and ids or {}
for number, id in ipairs(rest) do
  if statuses[number] then
    if has_documents then store(result_key(id), ttl_s, ARGV[DOCUMENTS + number]) end
    if may_stream then end_stream('windrow:events:' .. id, ttl_s, records[number], statuses[number]) end
  else
    refused[#refused + 1] = number
    if not has_documents then
      -- The first end stays: it waits here for MSET to pass.
      local key = result_key(id)
      redis.call('RPUSH', REFUSED, id, redis.call('GET', key) or '', redis.call('PTTL', key))
    end
  end
end
for name, count in pairs(counts) do
  if count > 0 then redis.call('HINCRBY', STATE, name, count) end
end
if #ended > 0 and busy_us > 0 then
  local now = busy_us / math.max(1, taken.cost)
  local old = tonumber(redis.call('HGET', STATE, 'us_per_token') or now)
  redis.call('HSET', STATE, 'us_per_token', string.format('%.6f', 0.8 * old + 0.2 * now))
end
if has_documents then announce(channel, ended, ARGV[#ARGV]) end
return refused
