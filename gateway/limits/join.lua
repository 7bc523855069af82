-- Join the current generation of an organization's counters, or begin a new one when counters were lost.
--
-- KEYS  1 meta hash
-- ARGV  1 name for a new generation   2 the generation that was lost, or ''   3 ms in which others may restore theirs
--       4 the server process
-- Reply {generation, open}: reserves of windows and slots are refused until `open`, ms by the clock of Redis.
local gen = redis.call('HGET', KEYS[1], 'gen')
if not gen or gen == ARGV[2] then
  gen = ARGV[1]
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], 'gen', gen, 'seq', '0', 'open', '0', 'run', ARGV[4])
end
if ARGV[2] ~= '' and ARGV[2] ~= gen and redis.call('HSETNX', KEYS[1], 'lost', ARGV[2]) == 1 then
  local t = redis.call('TIME')
  redis.call('HSET', KEYS[1], 'open', string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000) + ARGV[3]))
end
return {gen, redis.call('HGET', KEYS[1], 'open')}
