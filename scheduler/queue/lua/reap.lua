-- Claimed -> ready or finished, for requests of expired leases; ready -> finished, for requests past their deadline.
-- KEYS: jobs ready leases attempts state dead dead_letters
-- Uses: find_held write_held requeue delete publish document
-- Extra keys: the results of the requests, then their event streams.
-- ARGV: ttl_s, channel of results; then per request: id, token, 'retry' | 'dead' | 'expired', head of the result document,
--       error as JSON. Every decision is checked again, because another worker may have reaped meanwhile.
-- Returns how many requests were moved.
local ttl_s, channel, FIRST, WIDTH, DEAD_LETTERS_KEPT = ARGV[1], ARGV[2], 3, 5, 1000
local requests = (#ARGV - FIRST + 1) / WIDTH
local ids, tokens = {}, {}
for at = FIRST, #ARGV, WIDTH do ids[#ids + 1], tokens[#tokens + 1] = ARGV[at], ARGV[at + 1] end
local found, held = find_held(ids, tokens), read_held(tokens)
local requeued, finished, document = 0, {}, nil
for i, id in ipairs(ids) do
  local at, token = FIRST + WIDTH * (i - 1), tokens[i]
  local decision = ARGV[at + 2]
  local record = redis.call('HGET', JOBS, id)
  local flow = record and flow_of(record)
  local is_due
  if decision == 'expired' then
    is_due = flow and redis.call('ZREM', READY, id) == 1
  else
    local expiry = found[i] and held[token][found[i]] == HOLDS and redis.call('ZSCORE', LEASES, token)
    local is_over = expiry and tonumber(expiry) <= now_us
    -- If somebody deleted the record by hand, the claim only lets go of the request.
    if is_over then held[token][found[i]] = LET_GO end
    is_due = is_over and flow
  end
  if is_due then
    if decision == 'retry' then
      requeued = requeued + 1
      requeue({ id }, { record })
      redis.call('HINCRBY', ATTEMPTS, id, 1)
    else
      local result, status = EXTRA + i, decision == 'expired' and 'expired' or 'failed'
      local payload = payload_of(id)
      document = document_of(id, record, payload, ARGV[at + 3])
      local cost = delete_request(id, record)
      store(KEYS[result], ttl_s, document)
      end_stream(KEYS[result + requests], ttl_s, record, status)
      if decision == 'dead' then
        local created_us = string.match(record, '^3|%d|%d+|[^|]*|%d+|(%d+)|')
        local letter = {
          '{"id":"', id, '","flow":"', flow, '","cost":', int(cost), ',"created_us":', created_us,
          ',"died_us":', int(now_us), ',"error":', ARGV[at + 4], ',"call":', payload, '}' }
        redis.call('ZADD', DEAD, int(now_us), id)
        redis.call('HSET', DEAD_LETTERS, id, table.concat(letter))
        redis.call('HINCRBY', STATE, 'dead_letters', 1)
      end
      redis.call('HINCRBY', STATE, status, 1)
      finished[#finished + 1] = id
    end
  end
end
write_held(held)
if requeued > 0 then redis.call('HINCRBY', STATE, 'redelivered', requeued) end
local surplus = redis.call('ZCARD', DEAD) - DEAD_LETTERS_KEPT
if surplus > 0 then
  local oldest = redis.call('ZRANGE', DEAD, 0, surplus - 1)
  redis.call('ZREM', DEAD, unpack(oldest))
  redis.call('HDEL', DEAD_LETTERS, unpack(oldest))
end
announce(channel, finished, document)
return requeued + #finished
