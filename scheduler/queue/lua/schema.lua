-- The key schema. This file stands before every script, so each one reads the same names.
--
-- KEYS[1]   ready         zset  id -> virtual finish time; what waits, next first
-- KEYS[2]   jobs          hash  id -> record; everything not yet ended
-- KEYS[3]   leases        zset  token -> expiry in us; one lease a claim
-- KEYS[4]   claims        hash  token -> '@', the time of that claim in us, and its ids, separated by spaces
-- KEYS[5]   held          hash  token -> a digit for each of these: 1 while the claim holds it, 0 after; and more zeros
-- KEYS[6]   attempts      hash  id -> attempts that ended without an answer; absent is 0
-- KEYS[7]   flows         zset  flow -> virtual finish time of its last request; dropped once served
-- KEYS[8]   tenants       hash  n:<tenant> and b:<tenant> -> requests and bytes not ended; r:<tenant> -> see submit
-- KEYS[9]   state         hash  vtime, bytes, cost (tokens not ended), us_per_token (device time, averaged), and counters
-- KEYS[10]  wake          list  at most one token while something waits; workers block on it
-- KEYS[11]  deadlines     zset  id -> deadline in us; only requests that have one
-- KEYS[12]  webhook_urls  hash  id -> where its end is to be told; only requests that have one
-- KEYS[13]  webhooks      zset  id -> when to tell it next, in us; only requests that have ended
-- KEYS[14]  dead          zset  id -> when it was given up, in us; the newest 1,000
-- KEYS[15]  dead_letters  hash  id -> its input and the reason, JSON
-- KEYS[16]  workers       zset  worker -> last heartbeat in us
-- KEYS[17]  info          hash  worker -> what it serves, JSON
-- KEYS[18]  backlog       list  at most one token, where a claim left something behind; spare workers block on it alone
-- KEYS[19]  payloads      hash  id -> the JSON of the call; as long as there is a record
-- KEYS[20]  refused       list  within one transaction, of what `finish` refused: id, its record, its payload, its result,
--                               each '' where there is none, and the result's milliseconds to live
-- KEYS[21]  reach         zset  token -> virtual finish time of the last request the claim took
-- KEYS[22]  ...                 result keys, one per request of the call: celery-task-meta-<id>, with a TTL; after them,
--                               as many event streams: windrow:events:<id>, with a TTL. Scripts that end whole batches
--                               make these names of the ids: an argument for every request costs more.
--
-- All but these are named windrow:<model>:<name>. A record is "3|followed|cost|flow|bytes|created_us|deadline_us|tag": a
-- version, 1 where somebody follows its event stream, else 0, tokens, "<tenant>:<priority>", the size of the call's JSON,
-- the Redis time of the submit, 0 or the deadline, and the virtual finish time. It never changes. What waits and what is
-- held, the keys 1, 3, 4, 5, 7, 10, 18 and 21, is of this version alone: a release that keeps other records keeps these under
-- other names, so that each takes its own.
-- Lua hashes every byte of every string that it is handed, so what is long stays out of the scripts that run for every
-- request: payloads go in and out by plain commands beside them, and so do the records of many. A claim is one string of
-- ids, and who holds what is a digit in another.
-- Time is Redis TIME in microseconds and nobody else's clock. Deletes come before writes, because Redis 6.2 checks
-- for memory only at a script's first write, and a full Redis must still be able to finish.
local READY, JOBS, LEASES, CLAIMS, HELD = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local ATTEMPTS, FLOWS, TENANTS, STATE, WAKE, DEADLINES = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11]
local WEBHOOK_URLS, WEBHOOKS, DEAD, DEAD_LETTERS = KEYS[12], KEYS[13], KEYS[14], KEYS[15]
local WORKERS, INFO, BACKLOG, PAYLOADS, REFUSED = KEYS[16], KEYS[17], KEYS[18], KEYS[19], KEYS[20]
local REACH = KEYS[21]
local RESULTS = 21
local DEAD_LETTERS_KEPT = 1000

-- Lua prints 14 digits of a number and a microsecond has 16: format every one by hand.
local function int(number) return string.format('%.0f', number) end

local clock = redis.call('TIME')
local now_us = tonumber(clock[1]) * 1000000 + tonumber(clock[2])

-- The flow of a record; nil for one of another version.
local function flow_of(record) return string.match(record, '^3|%d|%d+|([^|]*)|') end

-- Its virtual finish time.
local function tag_of(record) return string.match(record, '[^|]*$') end

local function words(text)
  local found = {}
  for word in string.gmatch(text, '%S+') do found[#found + 1] = word end
  return found
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

-- What a hash has of each of these tokens, that may come more than once: token -> value, or false.
local function read_claims(key, tokens)
  local names, found = {}, {}
  for _, token in ipairs(tokens) do
    if token ~= '' and found[token] == nil then found[token], names[#names + 1] = false, token end
  end
  if #names > 0 then
    for i, value in ipairs(redis.call('HMGET', key, unpack(names))) do found[names[i]] = value end
  end
  return found
end

-- What claims still hold: token -> a byte for each of its requests, HOLDS or LET_GO; false where there is no such claim.
local HOLDS, LET_GO = 49, 48
local function read_held(tokens)
  local held = read_claims(HELD, tokens)
  for token, digits in pairs(held) do held[token] = digits and { string.byte(digits, 1, -1) } end
  return held
end

-- The places of the ids in what CLAIMS has of a claim; the time has the place 0.
local function places_in(claim)
  local places, at = {}, -1
  for word in string.gmatch(claim, '%S+') do at, places[word] = at + 1, at + 1 end
  return places
end

-- Of requests and the tokens that they are said to be held by: number -> place in that claim, of those that are.
local function find_held(ids, tokens)
  local held, claims, places, found = read_claims(HELD, tokens), read_claims(CLAIMS, tokens), {}, {}
  for i, id in ipairs(ids) do
    local token = tokens[i]
    local digits, of = held[token], places[token]
    if digits and not of then
      of = places_in(claims[token] or '')
      places[token] = of
    end
    local place = digits and of[id]
    if place and string.byte(digits, place) == HOLDS then found[i] = place end
  end
  return found
end

-- What they hold now. A claim that holds nothing is over, and so is its lease.
local function write_held(held)
  for token, bytes in pairs(held) do
    local digits = bytes and string.char(unpack(bytes))
    if digits and string.find(digits, '1', 1, true) then
      redis.call('HSET', HELD, token, digits)
    elseif digits then
      redis.call('HDEL', HELD, token)
      redis.call('HDEL', CLAIMS, token)
      redis.call('ZREM', LEASES, token)
      redis.call('ZREM', REACH, token)
    end
  end
end

-- Who holds a request that does not wait: token, when that claim was made in us, and the place in it. What waits is
-- claimed in the order of its tags, so the first claim that reached as far as its tag mostly is the one. `known` is kept
-- from one call to the next.
local function holder_of(id, record, known)
  local tag, from, PAGE = tag_of(record), 0, 8
  while true do
    local tokens = redis.call('ZRANGEBYSCORE', REACH, tag, '+inf', 'LIMIT', from, PAGE)
    for _, token in ipairs(tokens) do
      local one = known[token]
      if not one then
        local claim = redis.call('HGET', CLAIMS, token) or ''
        one = { places_in(claim), redis.call('HGET', HELD, token) or '', string.match(claim, '^@(%d+)') }
        known[token] = one
      end
      local place = one[1][id]
      if place and string.byte(one[2], place) == HOLDS then return token, one[3], place end
    end
    if #tokens < PAGE then return end
    from = from + PAGE
  end
end

-- Back to where they were. That is the front: what was claimed has a tag of at most vtime, what never was has a larger
-- one. And it is their old order, however many workers give back, in whatever sequence.
local function to_front(ids, records)
  if #ids == 0 then return end
  local entries = {}
  for i, id in ipairs(ids) do entries[2 * i - 1], entries[2 * i] = tag_of(records[i]), id end
  redis.call('ZREM', READY, unpack(ids)) -- a delete first, for a full Redis 6.2
  redis.call('ZADD', READY, unpack(entries))
  wake(WAKE)
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

-- What requests took: tokens and bytes in all, and requests and bytes by flow.
local function nothing() return { cost = 0, bytes = 0, requests = {}, flow_bytes = {} } end
local function add_taken(taken, flow, requests, cost, bytes)
  taken.cost, taken.bytes = taken.cost + cost, taken.bytes + bytes
  taken.requests[flow] = (taken.requests[flow] or 0) + requests
  taken.flow_bytes[flow] = (taken.flow_bytes[flow] or 0) + bytes
end
local function taken_by(record)
  local cost, flow, bytes = string.match(record, '^3|%d|(%d+)|([^|]*)|(%d+)|')
  return flow, 1, tonumber(cost), tonumber(bytes)
end

-- Give back what requests took that have ended; `ids` makes the list of them, where anything is kept beside their records.
local function settle(ids, taken)
  if redis.call('HLEN', ATTEMPTS) > 0 then redis.call('HDEL', ATTEMPTS, unpack(ids())) end
  if redis.call('ZCARD', DEADLINES) > 0 then redis.call('ZREM', DEADLINES, unpack(ids())) end
  -- Where nothing waits, no flow is ahead: the tags of what was canceled or expired go too.
  if redis.call('ZCARD', READY) == 0 then redis.call('DEL', FLOWS) end
  for flow, count in pairs(taken.requests) do charge(flow, -count, -taken.flow_bytes[flow]) end
  redis.call('HINCRBY', STATE, 'bytes', int(-taken.bytes))
  redis.call('HINCRBY', STATE, 'cost', int(-taken.cost))
  if redis.call('HLEN', WEBHOOK_URLS) > 0 then
    for _, id in ipairs(ids()) do
      if redis.call('HEXISTS', WEBHOOK_URLS, id) == 1 then redis.call('ZADD', WEBHOOKS, int(now_us), id) end
    end
  end
end

-- Forget requests that have ended, and give back what they took.
local function forget(ids, taken)
  if #ids == 0 then return end
  redis.call('HDEL', JOBS, unpack(ids))
  redis.call('HDEL', PAYLOADS, unpack(ids))
  settle(function() return ids end, taken)
end

-- The same for one request; returns its tokens.
local function forget_one(id, record)
  local taken = nothing()
  add_taken(taken, taken_by(record))
  forget({ id }, taken)
  return taken.cost
end

-- Set first, then announced.
local function store(key, ttl_s, document)
  redis.call('SETEX', key, ttl_s, document)
  redis.call('PUBLISH', key, document)
end

-- What its callers follow says in its event stream too how it ended, after everything that was told there; both go together.
local function end_stream(stream, ttl_s, record, status)
  if stream and record and string.byte(record, 3) == 49 then
    local kind = status == 'succeeded' and 'completed' or 'error'
    redis.call('XADD', stream, '*', 'type', kind, 'data', '{"status":"' .. status .. '"}')
    redis.call('EXPIRE', stream, ttl_s)
  end
end

local function result_key(id) return 'celery-task-meta-' .. id end

-- What was asked, of a request that no worker ended. One whose payload somebody deleted by hand must not hold up the others.
local function payload_of(id) return redis.call('HGET', PAYLOADS, id) or '{"model":null,"input":null}' end

-- Celery's own result document of a request that no worker ended; those that one did come whole from records.py, where
-- the head of these comes from too. It ends within the object that Windrow adds under "windrow".
local function document_of(id, record, payload, head)
  local flow, created = string.match(record, '^3|%d|%d+|([^|]*)|%d+|(%d+)|')
  return table.concat({
    '{"task_id":"', id, '",', head, ',"flow":"', flow, '","created_us":', created, ',"completed_us":', int(now_us),
    '},"kwargs":', payload, ',"traceback":null,"children":[],"date_done":"', iso(now_us),
    '","name":"windrow.predict"}' })
end

-- One message for everything that just ended: the ids, separated by spaces; after the id of one that ended by itself
-- its document follows on the next line, unless it is long, and saves whoever waits for it the reading.
local LONGEST_ANNOUNCED = 16384
local function announce(channel, ids, document)
  local message = table.concat(ids, ' ')
  if #ids == 1 and #document <= LONGEST_ANNOUNCED then message = message .. '\n' .. document end
  if #ids > 0 then redis.call('PUBLISH', channel, message) end
end
