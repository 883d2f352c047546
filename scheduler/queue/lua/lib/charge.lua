-- Adds requests and bytes to what the tenant of a flow has in flight; negative numbers subtract.
-- KEYS: tenants
local function charge(flow, requests, bytes)
  local tenant = string.match(flow, '^(.*):')
  if redis.call('HINCRBY', TENANTS, 'n:' .. tenant, requests) <= 0 then
    redis.call('HDEL', TENANTS, 'n:' .. tenant, 'b:' .. tenant)
  else
    redis.call('HINCRBY', TENANTS, 'b:' .. tenant, int(bytes))
  end
end
