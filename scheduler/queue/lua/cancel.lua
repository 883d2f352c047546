-- anything not ended -> finished as canceled. A worker that still holds it is told, and will find its finish refused.
-- ARGV: id, ttl_s, channel, head of the result document, channel for workers. KEYS[RESULTS + 2] is its event stream.
-- Returns 1, or 0 where there is nothing to cancel.
local id = ARGV[1]
local record = redis.call('HGET', JOBS, id)
if not record or not flow_of(record) then return 0 end
local head, owner, began_us, place = ARGV[4], nil, nil, nil
if redis.call('ZREM', READY, id) == 0 then owner, began_us, place = holder_of(id, record, {}) end
if owner then
  head = string.gsub(head, '"started_at":null', '"started_at":' .. string.format('%.6f', began_us / 1e6), 1)
end
local document = document_of(id, record, payload_of(id), head)
forget_one(id, record)
if owner then
  local held = read_held({ owner })
  held[owner][place] = LET_GO
  write_held(held)
end
store(KEYS[RESULTS + 1], ARGV[2], document)
end_stream(KEYS[RESULTS + 2], ARGV[2], record, 'canceled')
redis.call('HINCRBY', STATE, 'canceled', 1)
announce(ARGV[3], { id }, document)
if owner then redis.call('PUBLISH', ARGV[5], id) end
return 1
