-- How fast tokens grow, minute by minute: takes what is needed from every counter, or nothing where one would grow too fast.
-- KEYS  a hash for each counter: minute -> tokens
-- ARGV  tokens needed, then for each counter: tokens a minute always allowed, growth in percent, within so many minutes
-- Gives the counter (from 1 on) that would grow too fast or 0, the minute, and milliseconds until the next one.
local clock = redis.call('TIME')
local minute = math.floor(clock[1] / 60)
local rest = 60000 - (clock[1] % 60) * 1000 - math.floor(clock[2] / 1000)
local need = tonumber(ARGV[1])
for k = 1, #KEYS do
  local floor, percent, span = tonumber(ARGV[3 * k - 1]), tonumber(ARGV[3 * k]), tonumber(ARGV[3 * k + 1])
  local third = math.floor(span / 3)
  local now, before = 0, 0 -- before: around the minute `span` ago, because single minutes vary
  local counts = redis.call('HGETALL', KEYS[k])
  for i = 1, #counts, 2 do
    local at, tokens = tonumber(counts[i]), tonumber(counts[i + 1])
    if at == minute then now = tokens
    elseif at < minute - span - third then redis.call('HDEL', KEYS[k], counts[i])
    elseif at <= minute - span + third then before = before + tokens end
  end
  if now + need > floor and (now + need) * 100 * (2 * third + 1) > before * (100 + percent) then
    return {k, minute, rest}
  end
end
for k = 1, #KEYS do
  redis.call('HINCRBY', KEYS[k], minute, need)
  redis.call('EXPIRE', KEYS[k], (tonumber(ARGV[3 * k + 1]) * 2 + 2) * 60)
end
return {0, minute, rest}
