-- Claimed -> claimed: appends entries to the event streams of running requests.
-- Uses: find_held
-- Extra keys: the stream of each entry.
-- ARGV: ttl_s, maximum entries of a stream, channel of events; then per entry: id, token, entry id or '' for the first
--       entry of an attempt, type, data
-- Returns the entry id of each entry, or '' if the token does not hold the request.
local ttl_s, max_entries, channel, FIRST, WIDTH = ARGV[1], ARGV[2], ARGV[3], 4, 5
local ids, tokens = {}, {}
for at = FIRST, #ARGV, WIDTH do ids[#ids + 1], tokens[#tokens + 1] = ARGV[at], ARGV[at + 1] end
local found = find_held(ids, tokens)

-- Returns the id of the last entry of `stream` if it is the first one of this attempt: the reply of an earlier call with
-- the same entry was lost.
local function id_of_start(stream, token)
  local last = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
  if not last then return nil end
  local fields = last[2]
  for at = 1, #fields, 2 do
    if fields[at] == 'token' and fields[at + 1] == token then return last[1] end
  end
end

local appended, changed, is_changed = {}, {}, {}
for i, id in ipairs(ids) do
  local at = FIRST + WIDTH * (i - 1)
  appended[i] = ''
  if found[i] then
    local stream, entry, kind = KEYS[EXTRA + i], ARGV[at + 2], ARGV[at + 3]
    local reply = entry == '' and id_of_start(stream, ARGV[at + 1])
    if not reply then
      local fields = {'type', kind, 'data', ARGV[at + 4]}
      if entry == '' then
        entry = '*'
        if redis.call('EXISTS', stream) == 1 then fields[2] = 'restart' end
        fields[5], fields[6] = 'token', ARGV[at + 1]
      end
      reply = redis.pcall('XADD', stream, 'MAXLEN', '~', max_entries, entry, unpack(fields))
    end
    if type(reply) == 'table' and reply.err then
      -- An earlier call, whose reply was lost, appended this entry.
      if not string.find(tostring(reply.err), 'equal or smaller', 1, true) then return reply end
      reply = entry
    end
    appended[i] = reply
    if not is_changed[id] then
      is_changed[id] = true
      changed[#changed + 1] = id
      redis.call('EXPIRE', stream, ttl_s)
    end
  end
end
if #changed > 0 then redis.call('PUBLISH', channel, table.concat(changed, ' ')) end
return appended
