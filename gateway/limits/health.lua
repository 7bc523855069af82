-- What is known of deployments by all workers together, and who may probe one that is out.
-- KEYS[1] a hash: "d:" deployment -> packed {seq, worker, open, until, back, cool, hint, slow, slow_ms, at, why}
--                 "p:" probe      -> packed {free, last}
-- ARGV    packed {worker, states, wishes, probed, grant (ms), interval (ms), forget (ms)}, where
--         states  {deployment, breaker changed?, open, left, back ago, cool left, hint left, slow left, slow_ms, why} each
--         wishes  names of probes that the worker would make
--         probed  {name, ms ago} of those that it has made
-- Gives   packed {states, granted, probes}: states as above with seq and worker in front, names, {name, ms ago}
-- All times go over the wire as what is left or how long ago, so that nobody's clock matters but that of Redis.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local given = cmsgpack.unpack(ARGV[1])
local worker, grant, interval, forget = given[1], given[5], given[6], given[7]
local states, probes = {}, {}
local rows = redis.call('HGETALL', KEYS[1])
for i = 1, #rows, 2 do
  local name, row = rows[i], cmsgpack.unpack(rows[i + 1])
  local kind = string.sub(name, 1, 2)
  if kind == 'd:' then
    states[string.sub(name, 3)] = row
  else
    probes[string.sub(name, 3)] = row
  end
end
local wrote = false
local function keep(name, row)
  wrote = true
  redis.call('HSET', KEYS[1], name, cmsgpack.pack(row))
end
for _, told in ipairs(given[2]) do
  local name = told[1]
  local row = states[name] or {0, '', 0, 0, 0, 0, 0, 0, 0, 0, 0}
  if told[2] == 1 then -- the latest word on a breaker counts
    row[1], row[2], row[3], row[4], row[5] = row[1] + 1, worker, told[3], now + told[4], now - told[5]
  end
  for k = 6, 8 do row[k] = math.max(row[k], now + told[k]) end -- the longest wait counts
  row[9], row[10], row[11] = math.max(told[9], row[8] > now and row[9] or 0), now, told[10]
  states[name] = row
  keep('d:' .. name, row)
end
for _, made in ipairs(given[4]) do
  local row = probes[made[1]] or {0, 0}
  row[2] = math.max(row[2], now - made[2])
  row[1] = row[2] + interval
  probes[made[1]] = row
  keep('p:' .. made[1], row)
end
local granted = {}
for _, name in ipairs(given[3]) do
  local row = probes[name] or {0, 0}
  if row[1] <= now then
    row[1] = now + grant + interval -- even used at its last moment it is an interval before the next
    probes[name] = row
    granted[#granted + 1] = name
    keep('p:' .. name, row)
  end
end
local told, made = {}, {}
for name, row in pairs(states) do
  if math.max(row[4], row[6], row[7], row[8], row[10]) + forget < now then
    redis.call('HDEL', KEYS[1], 'd:' .. name)
  else
    told[#told + 1] = {name, row[1], row[2], row[3], row[4] - now, now - row[5], row[6] - now, row[7] - now, row[8] - now, row[9], row[11] or -1}
  end
end
for name, row in pairs(probes) do
  if math.max(row[1], row[2]) + forget < now then
    redis.call('HDEL', KEYS[1], 'p:' .. name)
  elseif row[2] > 0 then
    made[#made + 1] = {name, now - row[2]}
  end
end
if wrote then redis.call('PEXPIRE', KEYS[1], 2 * forget) end
return cmsgpack.pack({told, granted, made})
