-- Reads which of its requests each claim still holds.
-- KEYS: held
local HOLDS, LET_GO = 49, 48 -- the bytes of '1' and '0' in the values of `held`

-- Reads the values of `tokens`, which may repeat, from a hash. Returns token -> value, or false.
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

-- Returns token -> a byte for each request of the claim, HOLDS or LET_GO; false if there is no such claim.
local function read_held(tokens)
  local held = read_claims(HELD, tokens)
  for token, digits in pairs(held) do held[token] = digits and { string.byte(digits, 1, -1) } end
  return held
end
