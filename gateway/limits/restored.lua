-- Note requests that ran when counters were lost: the ledger's rows of them are not what these counters begin with.
--
-- KEYS  1 meta hash   2 set of requests
-- ARGV  1 the generation   2 msgpack of the requests' ids
-- Reply 1; 0: too late, it is open or over.
local t = redis.call('TIME')
local meta = redis.call('HMGET', KEYS[1], 'gen', 'open')
if meta[1] ~= ARGV[1] or t[1] * 1000 + math.floor(t[2] / 1000) >= tonumber(meta[2]) then return 0 end
for _, id in ipairs(cmsgpack.unpack(ARGV[2])) do redis.call('SADD', KEYS[2], id) end
return 1
