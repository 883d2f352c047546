-- claimed -> finished, a whole batch at once. The first finish of a request wins; a late one is counted and dropped.
-- ARGV: ttl_s, busy_us, channel, 1 where any may have an event stream, the ids, separated by spaces, how many runs, then per
-- run of requests alike: token, status, flow, how many, their tokens and bytes together, as their records have them, and
-- their places in the claim, two bytes each; then, where they are few, the result document of each. The records and payloads
-- of many go by HDEL and their documents come by MSET, and `stored` follows, in the same transaction.
-- Returns the numbers of those that were late.
local ttl_s, busy_us, channel, may_stream, runs = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4] == '1', tonumber(ARGV[6])
local FIRST, WIDTH = 7, 7
local DOCUMENTS = FIRST + WIDTH * runs - 1
local has_documents = #ARGV > DOCUMENTS
redis.call('DEL', REFUSED) -- a delete first, for a full Redis 6.2
local all = nil
local function every_id()
  all = all or words(ARGV[5])
  return all
end

local tokens = {}
for at = FIRST, DOCUMENTS, WIDTH do tokens[#tokens + 1] = ARGV[at] end
local held = read_held(tokens)
local statuses, late, counts, taken, i = {}, {}, {}, nothing(), 0
for at = FIRST, DOCUMENTS, WIDTH do
  local bytes, status, count, before = held[ARGV[at]], ARGV[at + 1], tonumber(ARGV[at + 3]), #late
  local places = { string.byte(ARGV[at + 6], 1, -1) }
  for k = 2, 2 * count, 2 do
    i = i + 1
    local place = 256 * places[k - 1] + places[k]
    if bytes and bytes[place] == HOLDS then
      bytes[place], statuses[i] = LET_GO, status
    else
      late[#late + 1] = i
    end
  end
  local mine = count - (#late - before)
  if mine == count then
    -- Nobody else has ended any of them, so they took what whoever claimed them read.
    add_taken(taken, ARGV[at + 2], mine, tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5]))
  else
    for number = i - count + 1, i do
      local record = statuses[number] and redis.call('HGET', JOBS, every_id()[number])
      if record then add_taken(taken, taken_by(record)) end
    end
  end
  counts[status] = (counts[status] or 0) + mine
end
counts.late = #late
for _, number in ipairs(has_documents and {} or late) do
  -- What there is of it waits here for HDEL and MSET to pass.
  local id = every_id()[number]
  local key = result_key(id)
  local record, payload = redis.call('HGET', JOBS, id) or '', redis.call('HGET', PAYLOADS, id) or ''
  redis.call('RPUSH', REFUSED, id, record, payload, redis.call('GET', key) or '', redis.call('PTTL', key))
end
write_held(held)

local function ended_ids()
  local ended = {}
  for number, id in ipairs(every_id()) do
    if statuses[number] then ended[#ended + 1] = id end
  end
  return ended
end
local followed = may_stream and redis.call('HMGET', JOBS, unpack(every_id())) or {}
if i > #late then
  if has_documents then forget(ended_ids(), taken) else settle(ended_ids, taken) end
end
for number, id in ipairs((has_documents or may_stream) and every_id() or {}) do
  if statuses[number] then
    if has_documents then store(result_key(id), ttl_s, ARGV[DOCUMENTS + number]) end
    if may_stream then end_stream('windrow:events:' .. id, ttl_s, followed[number], statuses[number]) end
  end
end
for name, count in pairs(counts) do
  if count > 0 then redis.call('HINCRBY', STATE, name, count) end
end
if i > #late and busy_us > 0 then
  local now = busy_us / math.max(1, taken.cost)
  local old = tonumber(redis.call('HGET', STATE, 'us_per_token') or now)
  redis.call('HSET', STATE, 'us_per_token', string.format('%.6f', 0.8 * old + 0.2 * now))
end
if has_documents then announce(channel, ended_ids(), ARGV[#ARGV]) end
return late
