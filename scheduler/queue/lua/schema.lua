-- The key schema. This file stands before every script, so each one reads the same names.
--
-- KEYS[1]  ready      zset  id -> virtual finish time; what waits, next first
-- KEYS[2]  jobs       hash  id -> record; everything not yet ended
-- KEYS[3]  leases     zset  id -> expiry in us; what a worker holds
-- KEYS[4]  owners     hash  id -> attempt token of the claim that holds it
-- KEYS[5]  attempts   hash  id -> attempts that ended without an answer; absent is 0
-- KEYS[6]  flows      hash  flow -> virtual finish time of its last request; dropped once served
-- KEYS[7]  state      hash  vtime, bytes, service_us (per request, averaged), and counters
-- KEYS[8]  wake       list  at most one token while something waits; workers block on it
-- KEYS[9]  deadlines  zset  id -> deadline in us; only requests that have one
-- KEYS[10] dead       list  dead letters, newest first, at most 1,000
-- KEYS[11] workers    zset  worker -> last heartbeat in us
-- KEYS[12] info       hash  worker -> what it serves, JSON
-- KEYS[13] ...              result keys, one per request of the call: celery-task-meta-<id>, with a TTL
--
-- All but the results are named windrow:<model>:<name>. A record is "1|created_us|deadline_us|cost|tag|flow|payload":
-- a version, the Redis time of the submit, 0 or the deadline, tokens, the virtual finish time, "<tenant>:<priority>", and
-- the JSON of the call.
-- Time is Redis TIME in microseconds and nobody else's clock. Deletes come before writes, because Redis 6.2 checks
-- for memory only at a script's first write, and a full Redis must still be able to finish.
local READY, JOBS, LEASES, OWNERS, ATTEMPTS, FLOWS = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local STATE, WAKE, DEADLINES, DEAD, WORKERS, INFO = KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11], KEYS[12]
local RESULTS = 12
local DEAD_LETTERS_KEPT = 1000

-- Lua prints 14 digits of a number and a microsecond has 16: format every one by hand.
local function int(number) return string.format('%.0f', number) end

local clock = redis.call('TIME')
local now_us = tonumber(clock[1]) * 1000000 + tonumber(clock[2])

local function parse(record)
  local created, tag, flow, start = string.match(record, '^1|(%d+)|%d+|%d+|([^|]*)|([^|]*)|()')
  return { created = created, tag = tag, flow = flow, payload = string.sub(record, start) }
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

local function wake()
  if redis.call('LLEN', WAKE) == 0 then redis.call('LPUSH', WAKE, '1') end
end

-- Back to where they were. That is the front: what was claimed has a tag of at most vtime, what never was has a larger
-- one. And it is their old order, however many workers give back, in whatever sequence.
local function to_front(ids, records)
  if #ids == 0 then return end
  local entries = {}
  for i, id in ipairs(ids) do entries[2 * i - 1], entries[2 * i] = parse(records[i]).tag, id end
  redis.call('ZADD', READY, unpack(entries))
  wake()
end

-- Forget requests that have ended; their payload bytes are given back.
local function forget(ids, payload_bytes)
  if #ids == 0 then return end
  redis.call('HDEL', JOBS, unpack(ids))
  redis.call('HDEL', OWNERS, unpack(ids))
  redis.call('HDEL', ATTEMPTS, unpack(ids))
  redis.call('ZREM', LEASES, unpack(ids))
  redis.call('ZREM', DEADLINES, unpack(ids))
  -- Where nothing waits, no flow is ahead: the tags of what was canceled or expired go too.
  if redis.call('ZCARD', READY) == 0 then redis.call('DEL', FLOWS) end
  redis.call('HINCRBY', STATE, 'bytes', int(-payload_bytes))
end

-- Celery's own result document, with what Windrow adds under "windrow"; set first, then announced.
local done_iso = iso(now_us)
local done_at = string.format(',"completed_at":%.6f,"run":', now_us / 1000000)
local function store(result_key, ttl_s, id, job, celery_status, result, status, run)
  local document = table.concat({
    '{"task_id":"', id, '","status":"', celery_status, '","result":', result,
    ',"traceback":null,"children":[],"date_done":"', done_iso, '","name":"windrow.predict","kwargs":', job.payload,
    ',"windrow":{"status":"', status, '","flow":"', job.flow,
    '","created_at":', string.sub(job.created, 1, -7), '.', string.sub(job.created, -6), done_at,
    run, '}}' })
  redis.call('SETEX', result_key, ttl_s, document)
  redis.call('PUBLISH', result_key, document)
end
