-- Join the current generation of an organization's counters, or begin a new one when counters were lost.
--
-- KEYS  1 meta hash   2 who answers since when, by the first worker that found counters of another server (not in a cluster)
-- ARGV  1 name for a new generation   2 the generation that the worker was in, or ''   3 ms in which others may restore theirs
--       4 '1' when counters of that generation were seen to be lost
-- Reply {generation, open}: reserves of windows and slots are refused until `open`, ms by the clock of Redis.
--
-- Counters that another server process kept came by a snapshot, a log or a replica, and nobody can tell from them how old
-- they are: they count as lost. Whoever holds something notices as soon, so what comes later need not wait for him.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local info = redis.pcall('INFO', 'server') -- an error where scripts may not ask: then only workers can tell
local server = type(info) == 'string' and string.match(info, 'run_id:(%w+)') or ''
local meta = redis.call('HMGET', KEYS[1], 'gen', 'run')
local gen, before, since = meta[1], ARGV[2], now
local moved = gen and server ~= '' and meta[2] ~= server
if moved and KEYS[2] then
  local met = redis.call('HMGET', KEYS[2], 'run', 'since')
  if met[1] == server then since = tonumber(met[2])
  else redis.call('HSET', KEYS[2], 'run', server, 'since', string.format('%.0f', now)) end
end
local lost = moved or (gen == before and ARGV[4] == '1')
if not gen or lost then
  gen = ARGV[1]
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], 'gen', gen, 'seq', '0', 'open', '0', 'run', server)
end
local open = since + ARGV[3]
if (lost or (before ~= '' and before ~= gen)) and open > now and redis.call('HSETNX', KEYS[1], 'lost', before) == 1 then
  redis.call('HSET', KEYS[1], 'open', string.format('%.0f', open))
end
return {gen, redis.call('HGET', KEYS[1], 'open')}
