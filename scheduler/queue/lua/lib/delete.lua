-- Deletes finished requests, and subtracts their costs from the totals.
-- KEYS: jobs payloads ready attempts deadlines flows state webhook_urls webhooks
-- Uses: charge

-- Costs of requests: tokens and bytes in total, and requests and bytes by flow.
local function no_costs() return { tokens = 0, bytes = 0, requests = {}, flow_bytes = {} } end
local function add_costs(costs, flow, requests, tokens, bytes)
  costs.tokens, costs.bytes = costs.tokens + tokens, costs.bytes + bytes
  costs.requests[flow] = (costs.requests[flow] or 0) + requests
  costs.flow_bytes[flow] = (costs.flow_bytes[flow] or 0) + bytes
end
local function costs_of(record)
  local tokens, flow, bytes = string.match(record, '^3|%d|(%d+)|([^|]*)|(%d+)|')
  return flow, 1, tonumber(tokens), tonumber(bytes)
end

-- Subtracts `costs` and deletes everything of the requests but records and payloads; `ids` returns the list of their ids,
-- and is called only if something is kept beside the records.
local function subtract_costs(ids, costs)
  if redis.call('HLEN', ATTEMPTS) > 0 then redis.call('HDEL', ATTEMPTS, unpack(ids())) end
  if redis.call('ZCARD', DEADLINES) > 0 then redis.call('ZREM', DEADLINES, unpack(ids())) end
  -- If nothing waits, no flow is ahead of the virtual time, so the tags of canceled and expired requests go too.
  if redis.call('ZCARD', READY) == 0 then redis.call('DEL', FLOWS) end
  for flow, count in pairs(costs.requests) do charge(flow, -count, -costs.flow_bytes[flow]) end
  redis.call('HINCRBY', STATE, 'bytes', int(-costs.bytes))
  redis.call('HINCRBY', STATE, 'cost', int(-costs.tokens))
  if redis.call('HLEN', WEBHOOK_URLS) > 0 then
    for _, id in ipairs(ids()) do
      if redis.call('HEXISTS', WEBHOOK_URLS, id) == 1 then redis.call('ZADD', WEBHOOKS, int(now_us), id) end
    end
  end
end

local function delete_requests(ids, costs)
  if #ids == 0 then return end
  redis.call('HDEL', JOBS, unpack(ids))
  redis.call('HDEL', PAYLOADS, unpack(ids))
  subtract_costs(function() return ids end, costs)
end

-- Deletes one request, and returns its cost in tokens.
local function delete_request(id, record)
  local costs = no_costs()
  add_costs(costs, costs_of(record))
  delete_requests({ id }, costs)
  return costs.tokens
end
