-- Stores which requests each claim still holds. A claim that holds none is deleted with its lease.
-- KEYS: claims leases reach
-- Uses: held
local function write_held(held)
  for token, bytes in pairs(held) do
    local digits = bytes and string.char(unpack(bytes))
    if digits and string.find(digits, '1', 1, true) then
      redis.call('HSET', HELD, token, digits)
    elseif digits then
      redis.call('HDEL', HELD, token)
      redis.call('HDEL', CLAIMS, token)
      redis.call('ZREM', LEASES, token)
      redis.call('ZREM', REACH, token)
    end
  end
end
