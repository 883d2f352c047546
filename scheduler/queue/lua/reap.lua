-- claimed -> ready | finished, for requests whose worker is gone; ready -> finished past the deadline.
-- ARGV: ttl_s, channel, then per request: id, its token, 'retry'|'dead'|'expired', head of the result document, the
-- reason as JSON. KEYS[RESULTS + requests + i] is the event stream of request i. Every verdict is checked again here, since
-- another worker may have reaped in between. Returns how many it applied.
local ttl_s, channel, FIRST, WIDTH = ARGV[1], ARGV[2], 3, 5
local requests = (#ARGV - FIRST + 1) / WIDTH
local again, records, ended, tokens, document = {}, {}, {}, {}, nil
for at = FIRST, #ARGV, WIDTH do
  local id, token, verdict = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local record = redis.call('HGET', JOBS, id)
  local job = record and parse(record)
  local due
  if verdict == 'expired' then
    due = job and redis.call('ZREM', READY, id) == 1
  else
    local expiry = redis.call('ZSCORE', LEASES, token)
    due = job and expiry and tonumber(expiry) <= now_us and redis.call('HGET', OWNERS, id) == token
    if due then
      redis.call('HDEL', OWNERS, id)
      tokens[#tokens + 1] = token
    end
  end
  if due then
    if verdict == 'retry' then
      redis.call('HINCRBY', ATTEMPTS, id, 1)
      again[#again + 1], records[#again + 1] = id, record
    else
      forget({ id }, { [id] = job })
      local number, status = RESULTS + 1 + (at - FIRST) / WIDTH, verdict == 'expired' and 'expired' or 'failed'
      document = store(KEYS[number], ttl_s, id, job, ARGV[at + 3], status, KEYS[number + requests])
      if verdict == 'dead' then
        local letter = {
          '{"id":"', id, '","flow":"', job.flow, '","cost":', job.cost, ',"created_us":', job.created, ',"died_us":',
          int(now_us), ',"error":', ARGV[at + 4], ',"call":', job.payload, '}' }
        redis.call('ZADD', DEAD, int(now_us), id)
        redis.call('HSET', DEAD_LETTERS, id, table.concat(letter))
        redis.call('HINCRBY', STATE, 'dead_letters', 1)
      end
      redis.call('HINCRBY', STATE, status, 1)
      ended[#ended + 1] = id
    end
  end
end
let_go(counted(tokens))
if #again > 0 then
  to_front(again, records)
  redis.call('HINCRBY', STATE, 'redelivered', #again)
end
local spare = redis.call('ZCARD', DEAD) - DEAD_LETTERS_KEPT
if spare > 0 then
  local oldest = redis.call('ZRANGE', DEAD, 0, spare - 1)
  redis.call('ZREM', DEAD, unpack(oldest))
  redis.call('HDEL', DEAD_LETTERS, unpack(oldest))
end
announce(channel, ended, document)
return #again + #ended
