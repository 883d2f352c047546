-- Returns requests to their old places in the queue. These are at its front: a claimed request has a tag of at most vtime,
-- a waiting one a larger tag. Their order is kept, whatever the order in which workers return them.
-- KEYS: ready wake
local function requeue(ids, records)
  if #ids == 0 then return end
  local entries = {}
  for i, id in ipairs(ids) do entries[2 * i - 1], entries[2 * i] = tag_of(records[i]), id end
  redis.call('ZREM', READY, unpack(ids)) -- a delete first, for a full Redis 6.2
  redis.call('ZADD', READY, unpack(entries))
  wake(WAKE)
end
