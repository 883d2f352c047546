-- The keys of one model. This file precedes every script, after a line that assigns the keys listed in the script's
-- "KEYS:" header to names in capitals: READY, JOBS, ... EXTRA is their number, so that KEYS[EXTRA + 1] is the first key
-- that a caller adds.
--
-- ready         zset  id -> virtual finish time; the waiting requests in the order in which they are claimed
-- jobs          hash  id -> record; every request that has not finished
-- payloads      hash  id -> JSON of the call; exists as long as the record
-- leases        zset  token -> expiry in us; one lease per claim
-- claims        hash  token -> '@', the time of the claim in us, and its ids, separated by spaces
-- held          hash  token -> a digit for each of these ids: 1 while the claim holds the request, else 0; then zeros
-- reach         zset  token -> virtual finish time of the last request that the claim took
-- attempts      hash  id -> number of attempts without a result; absent means 0
-- flows         zset  flow -> virtual finish time of its last request; removed when that request is claimed
-- tenants       hash  n:<tenant>, b:<tenant> -> unfinished requests and their bytes; r:<tenant> -> see submit.lua
-- state         hash  vtime, bytes, cost (tokens of unfinished requests), us_per_token (mean device time), and counters
-- wake          list  at most one element while requests wait; workers block on it
-- backlog       list  at most one element after a claim that left requests behind; spare processes block on it alone
-- deadlines     zset  id -> deadline in us; only requests with a deadline
-- webhook_urls  hash  id -> URL; only requests with a webhook
-- webhooks      zset  id -> time of the next delivery in us; only finished requests
-- webhook_tries hash  id -> deliveries begun
-- dead          zset  id -> time in us at which it became a dead letter; the newest 1,000
-- dead_letters  hash  id -> its input and the error, JSON
-- workers       zset  worker -> time of its last heartbeat in us
-- info          hash  worker -> its last heartbeat, JSON
-- refused       list  within one transaction, what finish.lua refused: id, record, payload, result ('' if there is none),
--                     and the milliseconds until the result expires
--
-- All are named windrow:<model>:<name>. Outside a model are results, celery-task-meta-<id>, and event streams,
-- windrow:events:<id>, both with a TTL. Scripts that finish whole batches derive these two names from the ids, because
-- an additional key for every request costs more time.
--
-- A record is "3|followed|cost|flow|bytes|created_us|deadline_us|tag": the version, 1 if the request has an event stream,
-- the cost in tokens, "<tenant>:<priority>", the size of the payload, the time of the submit, the deadline or 0, and the
-- virtual finish time, which the scripts call tag. It never changes. The keys ready, leases, claims, held, reach, flows, wake and backlog belong to
-- this version alone: a release with other records names these keys differently, so that each release claims its own.
--
-- Lua hashes every byte of every string that it receives, so long values bypass the scripts that run for every request:
-- payloads, and the records of large batches, are read and written by plain commands beside them. A claim is one string
-- of ids, and what it still holds is one string of digits.
-- All times are Redis TIME in microseconds. Deletes precede writes, because Redis 6.2 checks its memory at a script's
-- first write only, and a full Redis must still be able to finish requests.

-- Lua prints 14 digits of a number, but a time in microseconds has 16.
local function int(number) return string.format('%.0f', number) end

local clock = redis.call('TIME')
local now_us = tonumber(clock[1]) * 1000000 + tonumber(clock[2])

-- Returns the flow of a record; nil for a record of another version.
local function flow_of(record) return string.match(record, '^3|%d|%d+|([^|]*)|') end

-- Returns the virtual finish time of a record.
local function tag_of(record) return string.match(record, '[^|]*$') end

local function words(text)
  local found = {}
  for word in string.gmatch(text, '%S+') do found[#found + 1] = word end
  return found
end

local function wake(list)
  if redis.call('LLEN', list) == 0 then redis.call('LPUSH', list, '1') end
end

local function result_key(id) return 'celery-task-meta-' .. id end
