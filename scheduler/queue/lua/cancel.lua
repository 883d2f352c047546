-- Any unfinished state -> finished as canceled. A worker that holds the request is notified; its finish will be refused.
-- KEYS: jobs ready state
-- Uses: delete write_held holder publish document
-- Extra keys: the result and the event stream of the request.
-- ARGV: id, ttl_s, channel of results, head of the result document, channel of workers.
-- Returns 1, or 0 if there is no such request to cancel.
local id = ARGV[1]
local record = redis.call('HGET', JOBS, id)
if not record or not flow_of(record) then return 0 end
local head, holder, claimed_us, place = ARGV[4], nil, nil, nil
if redis.call('ZREM', READY, id) == 0 then holder, claimed_us, place = holder_of(id, record, {}) end
if holder then
  head = string.gsub(head, '"started_at":null', '"started_at":' .. string.format('%.6f', claimed_us / 1e6), 1)
end
local document = document_of(id, record, payload_of(id), head)
delete_request(id, record)
if holder then
  local held = read_held({ holder })
  held[holder][place] = LET_GO
  write_held(held)
end
store(KEYS[EXTRA + 1], ARGV[2], document)
end_stream(KEYS[EXTRA + 2], ARGV[2], record, 'canceled')
redis.call('HINCRBY', STATE, 'canceled', 1)
announce(ARGV[3], { id }, document)
if holder then redis.call('PUBLISH', ARGV[5], id) end
return 1
