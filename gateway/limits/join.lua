-- Join the current generation of an organization's counters, or begin a new one when counters were lost.
--
-- KEYS  1 meta hash   2 set of requests that ran when counters were lost
--       3 who answers since when, by the first worker that found counters of another server (not in a cluster)
-- ARGV  1 name for a new generation   2 the generation that the worker was in, or ''   3 ms in which others may restore theirs
--       4 '1' when counters of that generation were seen to be lost   5 '1' when the worker has something to restore
-- Reply {generation, 1 until it is open}: meanwhile windows and slots are only restored.
--
-- Counters that another server process kept came by a snapshot, a log or a replica, and nobody can tell from them how old
-- they are: they count as lost. Whoever holds something notices as soon, so what comes later need not wait for him. Who
-- comes too late with something to restore has everybody begin again: its rows were perhaps not in the ledger in time.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local info = redis.pcall('INFO', 'server') -- an error where scripts may not ask: then only workers can tell
local server = type(info) == 'string' and string.match(info, 'run_id:(%w+)') or ''
local meta = redis.call('HMGET', KEYS[1], 'gen', 'run', 'open')
local gen, open, before, since = meta[1], tonumber(meta[3] or '0'), ARGV[2], now
local moved = gen and server ~= '' and meta[2] ~= server
if moved and before == '' and KEYS[3] then
  local met = redis.call('HMGET', KEYS[3], 'run', 'since')
  if met[1] == server then since = tonumber(met[2]) end
end
local late = before ~= '' and gen ~= before and ARGV[5] == '1' and now >= open
if not gen or moved or late or (gen == before and ARGV[4] == '1') then
  if moved and KEYS[3] and redis.call('HGET', KEYS[3], 'run') ~= server then
    redis.call('HSET', KEYS[3], 'run', server, 'since', string.format('%.0f', now))
  end
  open = (gen or before ~= '') and since + ARGV[3] or 0
  gen = ARGV[1]
  redis.call('DEL', KEYS[1], KEYS[2])
  redis.call('HSET', KEYS[1], 'gen', gen, 'seq', '0', 'open', string.format('%.0f', open), 'run', server)
end
return {gen, now < open and 1 or 0}
