-- The shares of a pool's capacity: what every worker may have in flight, never more than the capacity together.
-- KEYS[1] a hash: worker -> packed {until (ms), grant, needed by three classes, waiting of three classes}
-- ARGV    worker, lease (ms), capacity, what it holds, in flight of three classes, waiting of three classes
-- Gives   this worker's grant, what it should come down to, how many workers there are, waiting of three classes at
--         the others, flex in flight at the others
-- Who should come down does so first and tells it by the next call, so nothing is granted twice.
-- Everybody has a small part for whoever comes next. The rest goes to priority wherever it is, up to 80 % while default
-- needs some, then to default, to what priority still needs, to flex, and what nobody needs to all alike: by classes and
-- not by sums, or priority at one worker would wait for default at another.
local PRIORITY_SHARE = 0.8
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local me, lease, capacity, holds = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local need, mine = {}, {}
for class = 1, 3 do
  mine[class] = tonumber(ARGV[7 + class])
  need[class] = tonumber(ARGV[4 + class]) + mine[class]
end
local needs, taken, known, waiting, flex = {need}, 0, false, {0, 0, 0}, 0
local members = redis.call('HGETALL', KEYS[1])
for i = 1, #members, 2 do
  local row = cmsgpack.unpack(members[i + 1])
  if row[1] < now or #row ~= 8 then
    redis.call('HDEL', KEYS[1], members[i])
  elseif members[i] == me then
    known = true
  else
    needs[#needs + 1] = {row[3], row[4], row[5]}
    taken = taken + row[2]
    flex = flex + row[5] - row[8]
    for class = 1, 3 do waiting[class] = waiting[class] + row[5 + class] end
  end
end
local workers = #needs
local least = math.max(math.floor(capacity / (4 * workers)), 1)
-- What each needs beyond the small part that it has anyway.
local total = {0, 0, 0}
for k = 1, workers do
  local spare = least
  for class = 1, 3 do
    local covered = math.min(needs[k][class], spare)
    spare = spare - covered
    needs[k][class] = needs[k][class] - covered
    total[class] = total[class] + needs[k][class]
  end
end
local left, target = math.max(capacity - least * workers, 0), least
local function give(class, most)
  local given = math.min(left, total[class], most)
  if given <= 0 then return end
  local part = given * need[class] / total[class]
  target = target + part
  need[class] = need[class] - part
  total[class] = total[class] - given
  left = left - given
end
give(1, total[2] > 0 and PRIORITY_SHARE * capacity or capacity)
give(2, capacity)
give(1, capacity)
give(3, capacity)
target = math.max(math.floor(target + left / workers + 0.000001), least)
local free = math.max(capacity - taken, 0)
local grant = holds
if target > holds then
  grant = math.max(holds, math.min(target, free))
end
if not known then
  grant = math.min(grant, free) -- a newcomer, or one that was taken for dead: others may have its share
end
local row = {now + lease, grant}
for class = 1, 3 do
  row[2 + class] = tonumber(ARGV[4 + class]) + mine[class]
  row[5 + class] = mine[class]
end
redis.call('HSET', KEYS[1], me, cmsgpack.pack(row))
redis.call('PEXPIRE', KEYS[1], lease * 2)
return {grant, target, workers, waiting[1], waiting[2], waiting[3], flex}
