-- Claimed -> finished, for a whole batch. A request whose claim no longer holds it is late: it was finished, canceled or
-- requeued meanwhile, so its result is counted and refused.
-- KEYS: jobs payloads state refused
-- Uses: write_held delete publish
-- ARGV: ttl_s, busy_us (device time of the batch), channel, 1 if any request may have an event stream, the ids, separated
--       by spaces, and the number of runs. A run is consecutive requests with the same token, status and flow; for each run
--       follow: token, status, flow, number of requests, sum of their costs in tokens and of their bytes, as in the
--       records, and their positions in the claim, two bytes each. For a small batch, the result document of each request
--       follows. For a large batch, HDEL deletes records and payloads, MSET writes the documents, and publish_results.lua
--       follows, all in the same transaction.
-- Returns the positions, in this call, of the requests that were late.
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
local statuses, late, counts, costs, i = {}, {}, {}, no_costs(), 0
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
  local stored = count - (#late - before)
  if stored == count then
    -- None of them is late, so the sums that the worker sent are those of the stored records.
    add_costs(costs, ARGV[at + 2], stored, tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5]))
  else
    for number = i - count + 1, i do
      local record = statuses[number] and redis.call('HGET', JOBS, every_id()[number])
      if record then add_costs(costs, costs_of(record)) end
    end
  end
  counts[status] = (counts[status] or 0) + stored
end
counts.late = #late
for _, number in ipairs(has_documents and {} or late) do
  -- HDEL and MSET delete and overwrite the data of late requests too; publish_results.lua restores it.
  local id = every_id()[number]
  local key = result_key(id)
  local record, payload = redis.call('HGET', JOBS, id) or '', redis.call('HGET', PAYLOADS, id) or ''
  redis.call('RPUSH', REFUSED, id, record, payload, redis.call('GET', key) or '', redis.call('PTTL', key))
end
write_held(held)

local function finished_ids()
  local finished = {}
  for number, id in ipairs(every_id()) do
    if statuses[number] then finished[#finished + 1] = id end
  end
  return finished
end
local records = may_stream and redis.call('HMGET', JOBS, unpack(every_id())) or {}
if i > #late then
  if has_documents then delete_requests(finished_ids(), costs) else subtract_costs(finished_ids, costs) end
end
for number, id in ipairs((has_documents or may_stream) and every_id() or {}) do
  if statuses[number] then
    if has_documents then store(result_key(id), ttl_s, ARGV[DOCUMENTS + number]) end
    if may_stream then end_stream('windrow:events:' .. id, ttl_s, records[number], statuses[number]) end
  end
end
for name, count in pairs(counts) do
  if count > 0 then redis.call('HINCRBY', STATE, name, count) end
end
if i > #late and busy_us > 0 then
  local now = busy_us / math.max(1, costs.tokens)
  local old = tonumber(redis.call('HGET', STATE, 'us_per_token') or now)
  redis.call('HSET', STATE, 'us_per_token', string.format('%.6f', 0.8 * old + 0.2 * now))
end
if has_documents then announce(channel, finished_ids(), ARGV[#ARGV]) end
return late
