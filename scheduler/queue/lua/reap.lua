-- claimed -> ready | finished, for requests whose worker is gone; ready -> finished past the deadline.
-- ARGV: ttl_s, channel, then per request: id, its token, 'retry'|'dead'|'expired', head of the result document, the
-- reason as JSON. KEYS[RESULTS + requests + i] is the event stream of request i. Every verdict is checked again here, since
-- another worker may have reaped in between. Returns how many it applied.
local ttl_s, channel, FIRST, WIDTH = ARGV[1], ARGV[2], 3, 5
local requests = (#ARGV - FIRST + 1) / WIDTH
local ids, tokens = {}, {}
for at = FIRST, #ARGV, WIDTH do ids[#ids + 1], tokens[#tokens + 1] = ARGV[at], ARGV[at + 1] end
local found, held = find_held(ids, tokens), read_held(tokens)
local again, ended, document = 0, {}, nil
for i, id in ipairs(ids) do
  local at, token = FIRST + WIDTH * (i - 1), tokens[i]
  local verdict = ARGV[at + 2]
  local record = redis.call('HGET', JOBS, id)
  local flow = record and flow_of(record)
  local due
  if verdict == 'expired' then
    due = flow and redis.call('ZREM', READY, id) == 1
  else
    local expiry = found[i] and held[token][found[i]] == HOLDS and redis.call('ZSCORE', LEASES, token)
    local is_over = expiry and tonumber(expiry) <= now_us
    -- One whose record somebody deleted by hand is only let go of.
    if is_over then held[token][found[i]] = LET_GO end
    due = is_over and flow
  end
  if due then
    if verdict == 'retry' then
      again = again + 1
      to_front({ id }, { record })
      redis.call('HINCRBY', ATTEMPTS, id, 1)
    else
      local number, status = RESULTS + i, verdict == 'expired' and 'expired' or 'failed'
      local payload = payload_of(id)
      document = document_of(id, record, payload, ARGV[at + 3])
      local cost = forget_one(id, record)
      store(KEYS[number], ttl_s, document)
      end_stream(KEYS[number + requests], ttl_s, record, status)
      if verdict == 'dead' then
        local letter = {
          '{"id":"', id, '","flow":"', flow, '","cost":', int(cost), ',"created_us":', string.match(record, '^3|%d|%d+|[^|]*|%d+|(%d+)|'),
          ',"died_us":', int(now_us), ',"error":', ARGV[at + 4], ',"call":', payload, '}' }
        redis.call('ZADD', DEAD, int(now_us), id)
        redis.call('HSET', DEAD_LETTERS, id, table.concat(letter))
        redis.call('HINCRBY', STATE, 'dead_letters', 1)
      end
      redis.call('HINCRBY', STATE, status, 1)
      ended[#ended + 1] = id
    end
  end
end
write_held(held)
if again > 0 then redis.call('HINCRBY', STATE, 'redelivered', again) end
local spare = redis.call('ZCARD', DEAD) - DEAD_LETTERS_KEPT
if spare > 0 then
  local oldest = redis.call('ZRANGE', DEAD, 0, spare - 1)
  redis.call('ZREM', DEAD, unpack(oldest))
  redis.call('HDEL', DEAD_LETTERS, unpack(oldest))
end
announce(channel, ended, document)
return again + #ended
