-- The key schema. This file stands before every script, so each one reads the same names.
--
-- KEYS[1]  ready         zset  id -> virtual finish time; what waits, next first
-- KEYS[2]  jobs          hash  id -> record; everything not yet ended
-- KEYS[3]  owners        hash  id -> token of the claim that holds it
-- KEYS[4]  leases        zset  token -> expiry in us; one lease a claim
-- KEYS[5]  claims        hash  token -> the ids of that claim, separated by spaces
-- KEYS[6]  held          hash  token -> how many of them it still holds
-- KEYS[7]  attempts      hash  id -> attempts that ended without an answer; absent is 0
-- KEYS[8]  flows         hash  flow -> virtual finish time of its last request; dropped once served
-- KEYS[9]  tenants       hash  n:<tenant> and b:<tenant> -> requests and bytes not ended; r:<tenant> -> see submit
-- KEYS[10] state         hash  vtime, bytes, cost (tokens not ended), us_per_token (device time, averaged), and counters
-- KEYS[11] wake          list  at most one token while something waits; workers block on it
-- KEYS[12] deadlines     zset  id -> deadline in us; only requests that have one
-- KEYS[13] webhook_urls  hash  id -> where its end is to be told; only requests that have one
-- KEYS[14] webhooks      zset  id -> when to tell it next, in us; only requests that have ended
-- KEYS[15] dead          zset  id -> when it was given up, in us; the newest 1,000
-- KEYS[16] dead_letters  hash  id -> its input and the reason, JSON
-- KEYS[17] workers       zset  worker -> last heartbeat in us
-- KEYS[18] info          hash  worker -> what it serves, JSON
-- KEYS[19] backlog       list  at most one token, where a claim left something behind; spare workers block on it alone
-- KEYS[20] ...                 result keys, one per request of the call: celery-task-meta-<id>, with a TTL; after them,
--                              where any of the call may have one, as many event streams: windrow:events:<id>, with a TTL
--
-- All but these are named windrow:<model>:<name>. A record is "1|created_us|deadline_us|cost|tag|flow|payload":
-- a version, the Redis time of the submit, 0 or the deadline, tokens, the virtual finish time, "<tenant>:<priority>", and
-- the JSON of the call. A record of another version belongs to workers of another release, and is left to them.
-- Time is Redis TIME in microseconds and nobody else's clock. Deletes come before writes, because Redis 6.2 checks
-- for memory only at a script's first write, and a full Redis must still be able to finish.
local READY, JOBS, OWNERS, LEASES, CLAIMS, HELD = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local ATTEMPTS, FLOWS, TENANTS, STATE, WAKE, DEADLINES = KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11], KEYS[12]
local WEBHOOK_URLS, WEBHOOKS, DEAD, DEAD_LETTERS = KEYS[13], KEYS[14], KEYS[15], KEYS[16]
local WORKERS, INFO, BACKLOG = KEYS[17], KEYS[18], KEYS[19]
local RESULTS = 19
local DEAD_LETTERS_KEPT = 1000

-- Lua prints 14 digits of a number and a microsecond has 16: format every one by hand.
local function int(number) return string.format('%.0f', number) end

local clock = redis.call('TIME')
local now_us = tonumber(clock[1]) * 1000000 + tonumber(clock[2])

-- nil for a record of another version.
local function parse(record)
  local created, cost, tag, flow, start = string.match(record, '^1|(%d+)|%d+|(%d+)|([^|]*)|([^|]*)|()')
  return created and { created = created, cost = cost, tag = tag, flow = flow, payload = string.sub(record, start) }
end

-- Civil date from days since 1970-01-01 (Hinnant, "chrono-compatible low-level date algorithms").
local function iso(us)
  local seconds = math.floor(us / 1000000)
  local days, rest = math.floor(seconds / 86400), seconds % 86400
  local z = days + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local day = doy - math.floor((153 * mp + 2) / 5) + 1
  local month = mp < 10 and mp + 3 or mp - 9
  local year = yoe + era * 400 + (month <= 2 and 1 or 0)
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%06d+00:00', year, month, day, math.floor(rest / 3600),
                       math.floor(rest / 60) % 60, rest % 60, us % 1000000)
end

local function wake(list)
  if redis.call('LLEN', list) == 0 then redis.call('LPUSH', list, '1') end
end

-- Back to where they were. That is the front: what was claimed has a tag of at most vtime, what never was has a larger
-- one. And it is their old order, however many workers give back, in whatever sequence.
local function to_front(ids, records)
  if #ids == 0 then return end
  local entries = {}
  for i, id in ipairs(ids) do entries[2 * i - 1], entries[2 * i] = parse(records[i]).tag, id end
  redis.call('ZADD', READY, unpack(entries))
  wake(WAKE)
end

-- Claims hold so many requests less: token -> how many. A claim that holds none is over, and so is its lease.
local function let_go(counts)
  for token, count in pairs(counts) do
    if redis.call('HINCRBY', HELD, token, -count) <= 0 then
      redis.call('HDEL', HELD, token)
      redis.call('HDEL', CLAIMS, token)
      redis.call('ZREM', LEASES, token)
    end
  end
end

local function counted(tokens)
  local counts = {}
  for _, token in ipairs(tokens) do
    if token then counts[token] = (counts[token] or 0) + 1 end
  end
  return counts
end

-- Bytes and requests of a flow are the tenant's.
local function charge(flow, requests, bytes)
  local tenant = string.match(flow, '^(.*):')
  if redis.call('HINCRBY', TENANTS, 'n:' .. tenant, requests) <= 0 then
    redis.call('HDEL', TENANTS, 'n:' .. tenant, 'b:' .. tenant)
  else
    redis.call('HINCRBY', TENANTS, 'b:' .. tenant, int(bytes))
  end
end

-- Forget requests that have ended (id -> job, and the ids again): what they took is given back.
local function forget(ids, jobs)
  if #ids == 0 then return end
  redis.call('HDEL', JOBS, unpack(ids))
  redis.call('HDEL', OWNERS, unpack(ids))
  if redis.call('HLEN', ATTEMPTS) > 0 then redis.call('HDEL', ATTEMPTS, unpack(ids)) end
  if redis.call('ZCARD', DEADLINES) > 0 then redis.call('ZREM', DEADLINES, unpack(ids)) end
  -- Where nothing waits, no flow is ahead: the tags of what was canceled or expired go too.
  if redis.call('ZCARD', READY) == 0 then redis.call('DEL', FLOWS) end
  local requests, bytes, all_bytes, cost = {}, {}, 0, 0
  for _, id in ipairs(ids) do
    local job = jobs[id]
    local flow, size = job.flow, #job.payload
    requests[flow], bytes[flow] = (requests[flow] or 0) + 1, (bytes[flow] or 0) + size
    all_bytes, cost = all_bytes + size, cost + job.cost
  end
  for flow, count in pairs(requests) do charge(flow, -count, -bytes[flow]) end
  redis.call('HINCRBY', STATE, 'bytes', int(-all_bytes))
  redis.call('HINCRBY', STATE, 'cost', int(-cost))
  if redis.call('HLEN', WEBHOOK_URLS) > 0 then
    for _, id in ipairs(ids) do
      if redis.call('HEXISTS', WEBHOOK_URLS, id) == 1 then redis.call('ZADD', WEBHOOKS, int(now_us), id) end
    end
  end
  return cost
end

-- Celery's own result document, with what Windrow adds under "windrow"; set first, then announced. The head comes from
-- records.py, and ends within the "windrow" object.
-- What its callers follow says so in its event stream too, after everything that was told there; both go together.
local STREAMS = ',"stream":true}'
local completed = ',"completed_us":' .. int(now_us) .. '},"kwargs":'
local tail = ',"traceback":null,"children":[],"date_done":"' .. iso(now_us) .. '","name":"windrow.predict"}'
local function store(result_key, ttl_s, id, job, head, status, stream)
  local document = table.concat({
    '{"task_id":"', id, '",', head, ',"flow":"', job.flow, '","created_us":', job.created, completed, job.payload, tail })
  redis.call('SETEX', result_key, ttl_s, document)
  redis.call('PUBLISH', result_key, document)
  if stream and string.sub(job.payload, -#STREAMS) == STREAMS then
    local kind = status == 'succeeded' and 'completed' or 'error'
    redis.call('XADD', stream, '*', 'type', kind, 'data', '{"status":"' .. status .. '"}')
    redis.call('EXPIRE', stream, ttl_s)
  end
  return document
end

-- One message for everything that just ended: the ids, separated by spaces; after the id of one that ended by itself
-- its document follows on the next line, unless it is long, and saves whoever waits for it the reading.
local LONGEST_ANNOUNCED = 16384
local function announce(channel, ids, document)
  local message = table.concat(ids, ' ')
  if #ids == 1 and #document <= LONGEST_ANNOUNCED then message = message .. '\n' .. document end
  if #ids > 0 then redis.call('PUBLISH', channel, message) end
end
