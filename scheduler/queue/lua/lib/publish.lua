-- Stores and publishes results.

-- Stores a result document, then publishes it under the same name, as Celery does.
local function store(key, ttl_s, document)
  redis.call('SETEX', key, ttl_s, document)
  redis.call('PUBLISH', key, document)
end

-- Adds the last event to the stream of a request that has one. The stream expires with the result.
local function end_stream(stream, ttl_s, record, status)
  if stream and record and string.byte(record, 3) == 49 then
    local kind = status == 'succeeded' and 'completed' or 'error'
    redis.call('XADD', stream, '*', 'type', kind, 'data', '{"status":"' .. status .. '"}')
    redis.call('EXPIRE', stream, ttl_s)
  end
end

-- Publishes one message for all requests that have just finished: their ids, separated by spaces. If there is one request
-- only and its document is not long, the document follows on the next line, which saves the waiting client a read.
local LONGEST_ANNOUNCED = 16384
local function announce(channel, ids, document)
  local message = table.concat(ids, ' ')
  if #ids == 1 and #document <= LONGEST_ANNOUNCED then message = message .. '\n' .. document end
  if #ids > 0 then redis.call('PUBLISH', channel, message) end
end
