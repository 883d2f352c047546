-- claimed -> claimed, having said something: entries for the event streams of requests that run.
-- ARGV: ttl_s, entries kept of a stream, channel, then per entry: id, token, entry id or '' where an attempt begins, type,
-- data. KEYS[RESULTS + i] is the stream of entry i. Returns the entry id per entry, '' where the token is not the holder's.
local ttl_s, kept, channel, FIRST, WIDTH = ARGV[1], ARGV[2], ARGV[3], 4, 5
local ids, tokens = {}, {}
for at = FIRST, #ARGV, WIDTH do ids[#ids + 1], tokens[#tokens + 1] = ARGV[at], ARGV[at + 1] end
local found = find_held(ids, tokens)

-- Where `stream` ends with the start that `token` told before, by a call whose answer was lost.
local function place_of_start(stream, token)
  local last = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
  if not last then return nil end
  local fields = last[2]
  for at = 1, #fields, 2 do
    if fields[at] == 'token' and fields[at + 1] == token then return last[1] end
  end
end

local told, news, seen = {}, {}, {}
for i, id in ipairs(ids) do
  local at = FIRST + WIDTH * (i - 1)
  told[i] = ''
  if found[i] then
    local stream, entry, kind = KEYS[RESULTS + i], ARGV[at + 2], ARGV[at + 3]
    local reply = entry == '' and place_of_start(stream, ARGV[at + 1])
    if not reply then
      local fields = {'type', kind, 'data', ARGV[at + 4]}
      if entry == '' then
        entry = '*'
        if redis.call('EXISTS', stream) == 1 then fields[2] = 'restart' end
        fields[5], fields[6] = 'token', ARGV[at + 1]
      end
      reply = redis.pcall('XADD', stream, 'MAXLEN', '~', kept, entry, unpack(fields))
    end
    if type(reply) == 'table' and reply.err then
      -- Told before, by a call whose answer was lost.
      if not string.find(tostring(reply.err), 'equal or smaller', 1, true) then return reply end
      reply = entry
    end
    told[i] = reply
    if not seen[id] then
      seen[id] = true
      news[#news + 1] = id
      redis.call('EXPIRE', stream, ttl_s)
    end
  end
end
if #news > 0 then redis.call('PUBLISH', channel, table.concat(news, ' ')) end
return told
