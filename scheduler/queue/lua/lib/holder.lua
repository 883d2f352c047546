-- Finds the claim that holds a request.
-- KEYS: claims reach
-- Uses: held places
-- Returns the token, the time of the claim in us, and the position in it; nothing if no claim holds the request. Requests
-- are claimed in the order of their tags, so it is usually the first claim that reached the request's tag. `cache` keeps
-- the claims that were read, for the next call.
local function holder_of(id, record, cache)
  local tag, from, PAGE = tag_of(record), 0, 8
  while true do
    local tokens = redis.call('ZRANGEBYSCORE', REACH, tag, '+inf', 'LIMIT', from, PAGE)
    for _, token in ipairs(tokens) do
      local entry = cache[token]
      if not entry then
        local claim = redis.call('HGET', CLAIMS, token) or ''
        entry = { places_in(claim), redis.call('HGET', HELD, token) or '', string.match(claim, '^@(%d+)') }
        cache[token] = entry
      end
      local place = entry[1][id]
      if place and string.byte(entry[2], place) == HOLDS then return token, entry[3], place end
    end
    if #tokens < PAGE then return end
    from = from + PAGE
  end
end
