-- The shares of a pool's capacity: what every worker may have in flight, never more than the capacity together.
-- KEYS[1] a hash: worker -> packed {until (ms), grant, demand, waiting of three classes}
-- ARGV    worker, lease (ms), capacity, what it holds, in flight, waiting of three classes
-- Gives   this worker's grant, what it should come down to, how many workers there are, waiting of three classes at
--         the others
-- Who should come down does so first and tells it by the next call, so nothing is granted twice.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local me, lease, capacity, holds = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local mine = {tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])}
local demand = tonumber(ARGV[5]) + mine[1] + mine[2] + mine[3] + 1
local all, taken, known, workers = demand, 0, false, 1
local waiting = {0, 0, 0}
local members = redis.call('HGETALL', KEYS[1])
for i = 1, #members, 2 do
  local row = cmsgpack.unpack(members[i + 1])
  if row[1] < now then
    redis.call('HDEL', KEYS[1], members[i])
  elseif members[i] == me then
    known = true
  else
    workers = workers + 1
    taken = taken + row[2]
    all = all + row[3]
    for class = 1, 3 do waiting[class] = waiting[class] + row[3 + class] end
  end
end
local target = math.max(math.floor(capacity * demand / all), math.floor(capacity / (4 * workers)), 1)
local free = math.max(capacity - taken, 0)
local grant = holds
if target > holds then
  grant = math.max(holds, math.min(target, free))
end
if not known then
  grant = math.min(grant, free) -- a newcomer, or one that was taken for dead: others may have its share
end
redis.call('HSET', KEYS[1], me, cmsgpack.pack({now + lease, grant, demand, mine[1], mine[2], mine[3]}))
redis.call('PEXPIRE', KEYS[1], lease * 2)
return {grant, target, workers, waiting[1], waiting[2], waiting[3]}
