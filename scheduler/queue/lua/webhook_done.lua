-- Deletes a webhook that was delivered, or that is given up.
-- KEYS: webhooks webhook_urls webhook_tries
-- ARGV: id
-- Returns 1, or 0 if there was no such webhook.
redis.call('HDEL', WEBHOOK_URLS, ARGV[1])
redis.call('HDEL', WEBHOOK_TRIES, ARGV[1])
return redis.call('ZREM', WEBHOOKS, ARGV[1])
