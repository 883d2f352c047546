-- Makes the result documents of requests that no worker finished. results.py makes all others, and the head of these.
-- KEYS: payloads

-- Returns ISO 8601 in UTC. Civil date from days since 1970-01-01: Hinnant, "chrono-compatible low-level date algorithms".
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

-- Returns the payload of a request. One whose payload was deleted by hand must not block the others.
local function payload_of(id) return redis.call('HGET', PAYLOADS, id) or '{"model":null,"input":null}' end

-- Returns the whole document; `head` is its beginning and ends inside the object "windrow".
local function document_of(id, record, payload, head)
  local flow, created = string.match(record, '^3|%d|%d+|([^|]*)|%d+|(%d+)|')
  return table.concat({
    '{"task_id":"', id, '",', head, ',"flow":"', flow, '","created_us":', created, ',"completed_us":', int(now_us),
    '},"kwargs":', payload, ',"traceback":null,"children":[],"date_done":"', iso(now_us),
    '","name":"windrow.predict"}' })
end
