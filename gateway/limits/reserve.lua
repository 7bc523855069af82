-- Settle, then reserve, in one atomic step. Every decision of limits is taken here; memory.py decides alike.
--
-- KEYS  1 meta hash (gen, open, seq)      2 processes: zset of name by the end of its lease
--       3 tombstones of reaped requests   4 reservations of one process: hash of request by record
--       5.. scopes: hashes of counters. All share one hash tag.
-- ARGV  1 msgpack of {gen, process, fence, lease ms, seq seen, limits, sets, seeds, settles, reserves, reaping}
--       2 only in tests: the time to believe it is, in ms
--   limit   {key, field, kind, cap, rate, period, unit}     kind 1 bucket, 2 calendar window (rate: overdraft), 3 slots
--   set     {limit, ...}: what is taken all or none
--   seed    {key, {field, window, spent, ...}, 1 where what is booked since a loss is to be added}: what counters begin with
--   settle  {request, set, mode, fence when first sent, reserved at or 0, amounts..., rest...}   modes: see SETTLE below
--           PART books the amounts, and goes on holding the rest; LEAST has windows of the time in `reserved at` say no less,
--           together with what is reserved of them
--   reserve {request, set, mode, at, amounts..., limits packed, number}            modes: see RESERVE below
--           LEASE takes up to `number` times the amounts, to be used up or given back within `at` ms
--           outcome and wait: 0 granted; a position of the set: it has too little, for a bucket until wait (ms);
--           -1 held already; -2 not seeded, wait is the set of positions in binary; -3 being restored;
--           -4 too little, but others hold leases on it: for `wait` ms at most, and none is made meanwhile.
--           Of a LEASE that is granted, wait is how many times; it is refused where it would be too few.
-- Reply {now, seq, fence before, live processes or 0, settled, outcomes, values, reserved, windows}
--   or {-1, gen}: another generation, nothing was done; {-5}: a stale duplicate; {-4}: the process is alive.
--
-- A counter is kept in fields that begin with its name: a bucket as l(evel x period) and t(ime), a window as
-- w(indow), s(pent), r(eserved), slots as n. `g` is the generation in which the scope was seeded, with a `?` while it has
-- only what was restored and booked since the loss; `x` when it expires, `h` until when leases on it are held at most,
-- `e` until when none is made.
-- A record is {at, generation, amounts, windows, checkpoint or 0} followed by the limits, for whoever must reap it.

local DAY = 86400000
local SETTLE, CHECKPOINT, CHARGE, REFUND, PART, LEAST = 0, 1, 2, 3, 4, 5
local RESERVE, ADJUST, RESTORE, READ, LEASE = 0, 1, 2, 3, 4
local SHARE, SMALLEST = 0.25, 4 -- of what is left, all workers' leases together; requests, fewer are not worth one
local EXACT = 2000 -- ms without leases once a request met with one
local floor, format, call = math.floor, string.format, redis.call

local m = cmsgpack.unpack(ARGV[1])
local gen, process, fence, lease, seen = m[1], m[2], m[3], m[4], m[5]
local L, SETS, SEEDS, S, R, reaping = m[6], m[7], m[8], m[9], m[10], m[11]

local meta = call('HMGET', KEYS[1], 'gen', 'open', 'seq')
local seq = tonumber(meta[3] or '0')
if meta[1] ~= gen or seq < seen then return cmsgpack.pack({-1, meta[1] or ''}) end
local now
if ARGV[2] then now = tonumber(ARGV[2]) else
  local t = call('TIME')
  now = t[1] * 1000 + floor(t[2] / 1000)
end
local closed, begun = now < tonumber(meta[2] or '0'), gen .. '?'
local before, live = 0, 0
if reaping then
  if (tonumber(call('ZSCORE', KEYS[2], reaping) or '0')) > now then return cmsgpack.pack({-4}) end
else
  -- A call whose reply was lost is sent again with a higher fence: the first can then no longer be executed late.
  before = tonumber(call('HGET', KEYS[4], '#') or '0')
  if fence <= before then return cmsgpack.pack({-5}) end
  local ends = tonumber(call('ZSCORE', KEYS[2], process) or '0')
  if ends - now < lease * 0.75 then
    call('ZADD', KEYS[2], format('%.0f', now + lease), process)
    live = call('ZCOUNT', KEYS[2], format('%.0f', now), '+inf')
    if ends <= now then call('PERSIST', KEYS[4]) end -- a reaper may have let it expire
  end
end

-- Calendar windows in UTC, as in windows.py. Days to months after H. Hinnant's civil_from_days.
local known = {}
local function window(period, at)
  local day = floor(at / DAY)
  if period == 1 then return day end
  if period == 2 then return floor((day + 3) / 7) end
  if period == 4 then return 0 end
  local month = known[day]
  if not month then
    local z = day + 719468
    local era = floor(z / 146097)
    local doe = z - era * 146097
    local yoe = floor((doe - floor(doe / 1460) + floor(doe / 36524) - floor(doe / 146096)) / 365)
    local mp = floor((5 * (doe - (365 * yoe + floor(yoe / 4) - floor(yoe / 100))) + 2) / 153)
    local y, mo = yoe + era * 400, mp + 3
    if mp >= 10 then y, mo = y + 1, mp - 9 end
    month = y * 12 + mo - 1
    known[day] = month
  end
  return month
end

-- 1. Read each scope once, and bring its counters up to now.
local fields, pos = {}, {}
for i = 1, #L do
  local l = L[i]
  local f = fields[l[1]]
  if not f then f = {'x', 'g', 'h', 'e'}; fields[l[1]] = f end
  local n, name, kind = #f, l[2], l[3]
  if kind == 1 then f[n + 1] = name .. 'l'; f[n + 2] = name .. 't'
  elseif kind == 2 then f[n + 1] = name .. 'w'; f[n + 2] = name .. 's'; f[n + 3] = name .. 'r'
  else f[n + 1] = name .. 'n' end
  pos[i] = n
end
local vals, seeds, marked, begins, leased, exact = {}, {}, {}, {}, {}, {}
for k, f in pairs(fields) do
  local v = call('HMGET', KEYS[k], unpack(f))
  vals[k], leased[k], exact[k] = v, tonumber(v[3] or '0'), tonumber(v[4] or '0')
  begins[k] = closed and v[2] ~= gen and v[2] ~= begun -- what it has is of another time
end
for i = 1, #SEEDS do
  local s, by = SEEDS[i][2], {}
  for j = 1, #s, 3 do by[s[j]] = {s[j + 1], s[j + 2], SEEDS[i][3] == 1} end
  seeds[SEEDS[i][1]] = by
end
-- A: level x period, spent or in use.  B: time of a bucket, reserved of a window.  C: the window.  D: cap x period
local A, B, C, D, seeded, dirty = {}, {}, {}, {}, {}, {}
for i = 1, #L do
  local l, n = L[i], pos[i]
  local v, kind, k = vals[l[1]], l[3], l[1]
  B[i], C[i], D[i] = 0, 0, 0
  seeded[i] = kind == 1 or (v[2] == gen and (kind == 3 or v[n + 1] ~= false))
  local seed, restored = not seeded[i] and not closed and seeds[k], v[2] == begun
  if seed then seeded[i], dirty[i], marked[k] = true, true, true end
  if kind == 1 then
    local cap = l[4] * l[6]
    local level, at = tonumber(v[n + 1] or false), tonumber(v[n + 2] or false)
    if not level then level = cap
    else
      local gained = (now - at) * l[5]
      -- A clock that was set back regains nothing, and is believed from now on.
      if gained > 0 then
        if gained >= cap - level then level = cap else level = level + gained end
      end
      if level > cap then level = cap end
    end
    A[i], B[i], D[i] = level, now, cap
  elseif kind == 2 then
    local w, stored = window(l[6], now), tonumber(v[n + 1] or false)
    local spent, reserved = 0, 0
    if stored and stored >= w and not begins[k] then -- never back to an older window
      w, spent, reserved = stored, tonumber(v[n + 2]), tonumber(v[n + 3])
    end
    if seed then
      local s = seed[l[2]]
      if not restored then reserved = 0 end
      if s and s[1] == w then
        if restored and s[3] then spent = spent + s[2] elseif s[2] > spent then spent = s[2] end
      end
    end
    A[i], B[i], C[i] = spent, reserved, w
  else
    A[i] = (begins[k] or (seed and not restored)) and 0 or tonumber(v[n + 1] or '0')
  end
end
-- 2. Settles. `held` is what was reserved (nil: no reservation), `lost` tells that it was made in another generation.
local function book(set, wins, held, lost, actual, slots)
  for j = 1, #set do
    local i = set[j]
    local l = L[i]
    local u, kind = l[7], l[3]
    if kind == 1 then
      local level = A[i] + ((held and held[u] or 0) - actual[u]) * l[6]
      if level > D[i] then level = D[i] end
      A[i] = level
    elseif kind == 2 then
      if C[i] == wins[j] then -- else that day is over, and its counter with it
        A[i] = A[i] + actual[u]
        if held and slots and not lost then
          B[i] = B[i] - held[u]
          if B[i] < 0 then B[i] = 0 end
        elseif held and not slots then A[i] = A[i] - held[u] end -- a tombstone: it was charged
      end
    elseif held and slots and not lost then
      A[i] = A[i] - held[u]
      if A[i] < 0 then A[i] = 0 end
    end
    dirty[i] = true
  end
end
local settled, changed = {}, false
for k = 1, #S do
  local s = S[k]
  local rid, set, mode = s[1], SETS[s[2]], s[3]
  local raw = call('HGET', KEYS[4], rid)
  settled[k] = 0
  if raw then
    local tail, rec = cmsgpack.unpack_one(raw)
    local held, wins = rec[3], rec[4]
    if mode == CHECKPOINT then
      rec[5] = {s[6], s[7], s[8], s[9], s[10], s[11]}
      call('HSET', KEYS[4], rid, cmsgpack.pack(rec) .. string.sub(raw, tail + 1))
    elseif mode == PART then
      if before < s[4] then -- not executed by an earlier sending
        local less = {}
        for u = 1, 6 do less[u] = held[u] - s[11 + u] end
        book(set, wins, less, rec[2] ~= gen, {s[6], s[7], s[8], s[9], s[10], s[11]}, true)
        rec[3], rec[5] = {s[12], s[13], s[14], s[15], s[16], s[17]}, 0
        call('HSET', KEYS[4], rid, cmsgpack.pack(rec) .. string.sub(raw, tail + 1))
      end
    else
      local actual = {s[6], s[7], s[8], s[9], s[10], s[11]}
      if mode == CHARGE then actual = rec[5] ~= 0 and rec[5] or held
      elseif mode == REFUND then actual = {0, 0, 0, 0, 0, 0} end
      book(set, wins, held, rec[2] ~= gen, actual, true)
      call('HDEL', KEYS[4], rid)
      if mode ~= SETTLE then
        call('HSET', KEYS[3], rid, cmsgpack.pack({wins, actual}))
        call('PEXPIRE', KEYS[3], 3600000)
      end
    end
    settled[k] = 1
    changed = true
  elseif mode == LEAST then -- the same however often it is executed
    for j = 1, #set do
      local i = set[j]
      local l = L[i]
      local least = s[5 + l[7]] - B[i]
      if l[3] == 2 and C[i] == window(l[6], s[5]) and A[i] < least then
        A[i], dirty[i], changed = least, true, true
      end
    end
  elseif mode == SETTLE or mode == PART then
    local actual = {s[6], s[7], s[8], s[9], s[10], s[11]}
    local grave = call('HGET', KEYS[3], rid)
    if grave then -- reaped while its process was stopped: what was charged gives way to what was used
      local t = cmsgpack.unpack(grave)
      book(set, t[1], t[2], false, actual, false)
      call('HDEL', KEYS[3], rid)
      settled[k] = 2
      changed = true
    elseif before < s[4] or s[4] == 0 then -- not executed by an earlier sending either: the reservation was lost
      local wins = {}
      for j = 1, #set do
        local l = L[set[j]]
        wins[j] = l[3] == 2 and (s[5] == 0 and C[set[j]] or window(l[6], s[5])) or 0
      end
      book(set, wins, nil, false, actual, false)
      settled[k] = 3
      changed = true
    end
  end
end

-- 3. Reserves: all limits or none, in the order given.
local function ceil_div(a, b)
  local q = floor(a / b)
  while q * b < a do q = q + 1 end
  return q
end
-- The level of a bucket from which what flows in for so long does not fill it: it and a lease are never more than its cap.
local function below(i, l, hold) return math.min(A[i], D[i] - l[5] * hold) end
-- How many times `need` a lease may be: a small part of what is left, and none of an overdraft.
local function size(set, need, number, hold)
  local most = SHARE / math.max(call('ZCOUNT', KEYS[2], format('%.0f', now), '+inf'), 1)
  for j = 1, #set do
    local i = set[j]
    local l = L[i]
    local kind, amount, left = l[3], need[l[7]], l[4] - A[i]
    if exact[l[1]] > now then return 0 end
    if kind == 1 then left = below(i, l, hold) / l[6] elseif kind == 2 then left = left - B[i] end
    if amount > 0 then number = math.min(number, floor(left * most / amount)) end
  end
  return number
end
-- Whether leases that others hold may be all that is missing of a limit: then nothing is refused before they are over.
local function may_come_back(l, i, amount)
  if leased[l[1]] <= now or amount > l[4] + (l[3] == 2 and l[5] or 0) then return false end
  if l[3] ~= 2 then return true end
  return A[i] + amount <= l[4] + l[5] and (l[5] == 0 or A[i] < l[4]) -- what is spent is not given back
end
local out = {}
for k = 1, #R do
  local r = R[k]
  local rid, set, mode = r[1], SETS[r[2]], r[3]
  local need, bad, wait, held = {r[5], r[6], r[7], r[8], r[9], r[10]}, 0, 0, nil
  local raw = call('HGET', KEYS[4], rid)
  local wins, at = {}, now
  for j = 1, #set do wins[j] = C[set[j]] end
  if raw then
    local _, rec = cmsgpack.unpack_one(raw)
    if mode == ADJUST then held, wins, at = rec[3], rec[4], rec[1]
    elseif rec[2] == gen then -- a repetition; what was granted in a generation that is lost is counted nowhere
      bad = -1
      if mode == LEASE then wait = rec[3][1] / need[1] end
    end
  end
  if bad == 0 then
    for j = 1, #set do
      local i = set[j]
      local l = L[i]
      if l[3] ~= 1 and closed then
        if mode ~= RESTORE then bad = -3 end
      elseif not seeded[i] and not (mode == RESTORE and vals[l[1]][2] == begun) then
        bad = -2
        if j <= 50 then wait = wait + 2 ^ (j - 1) end -- which ones
      end
    end
  end
  if mode == READ and bad == 0 then bad = -1 end
  if bad == 0 and mode == LEASE then
    wait = size(set, need, r[12], r[4])
    if wait < SMALLEST then bad = 1
    else
      for u = 1, 6 do need[u] = need[u] * wait end
      for j = 1, #set do
        local i, l = set[j], L[set[j]]
        local k = l[1]
        if l[3] == 1 then A[i] = below(i, l, r[4]) end
        if leased[k] < now + r[4] then
          leased[k] = now + r[4]
          call('HSET', KEYS[k], 'h', format('%.0f', leased[k]))
        end
      end
    end
  elseif bad == 0 and mode ~= RESTORE then
    for j = 1, #set do
      local i = set[j]
      local l = L[i]
      local u, kind = l[7], l[3]
      local more = need[u] - (held and held[u] or 0)
      if held and more <= 0 then -- it only gives back
      elseif kind == 1 then
        local short = more * l[6] - A[i]
        if short > 0 then
          bad = j
          if need[u] <= l[4] and l[5] > 0 then wait = ceil_div(short, l[5]) end
          break
        end
      elseif kind == 2 then
        -- An overdraft (l[5]) is for requests in flight: nothing begins once all of the window is spent.
        if C[i] == wins[j]
          and (A[i] + B[i] + more > l[4] + l[5] or (l[5] > 0 and not held and A[i] >= l[4])) then bad = j; break end
      elseif A[i] + more > l[4] then bad = j; break end
    end
    local i = set[bad]
    local l = L[i]
    if l and may_come_back(l, i, need[l[7]] - (held and held[l[7]] or 0)) then
      local k = l[1]
      bad, wait = -4, leased[k] - now
      exact[k] = now + EXACT
      call('HSET', KEYS[k], 'e', format('%.0f', exact[k]))
    end
  end
  if bad == 0 then
    if mode == RESTORE then
      at = r[4]
      for j = 1, #set do
        local l = L[set[j]]
        wins[j] = l[3] == 2 and window(l[6], at) or 0
      end
    end
    for j = 1, #set do
      local i = set[j]
      local l = L[i]
      local u, kind = l[7], l[3]
      local more = need[u] - (held and held[u] or 0)
      if kind == 1 then
        if mode ~= RESTORE then
          local level = A[i] - more * l[6]
          if level > D[i] then level = D[i] end
          A[i] = level
        end
      elseif kind == 2 then
        if C[i] == wins[j] then B[i] = B[i] + more end
      else A[i] = A[i] + more end
      dirty[i] = true
    end
    local record = cmsgpack.pack({at, gen, need, wins, 0}) .. r[11]
    -- Written at once: a later entry of this batch may be about the same request.
    call('HSET', KEYS[4], rid, record)
    changed = true
  end
  out[k * 2 - 1] = bad
  out[k * 2] = wait
end

-- 4. Write each scope once, and of one that begins again all that is known of it.
local w, ttl = {}, {}
if closed then
  local again = {}
  for i = 1, #L do again[L[i][1]] = again[L[i][1]] or dirty[i] and begins[L[i][1]] end
  for i = 1, #L do dirty[i] = dirty[i] or again[L[i][1]] end
  for k, begin in pairs(again) do if begin then call('DEL', KEYS[k]); vals[k][1] = false end end
end
for i = 1, #L do
  if dirty[i] then
    local l = L[i]
    local k, name, kind = l[1], l[2], l[3]
    local f = w[k]
    if not f then f = {}; w[k] = f; ttl[k] = 0 end
    local n, t = #f, 60000
    if kind == 1 then
      f[n + 1] = name .. 'l'; f[n + 2] = format('%.0f', A[i]); f[n + 3] = name .. 't'; f[n + 4] = format('%.0f', B[i])
      if l[5] > 0 then t = 2 * floor((D[i] - A[i]) / l[5]) + 60000 end
    elseif kind == 2 then
      f[n + 1] = name .. 'w'; f[n + 2] = format('%.0f', C[i]); f[n + 3] = name .. 's'
      f[n + 4] = format('%.0f', A[i]); f[n + 5] = name .. 'r'; f[n + 6] = format('%.0f', B[i])
      if l[6] == 1 then t = 2 * DAY elseif l[6] == 2 then t = 14 * DAY elseif l[6] == 3 then t = 62 * DAY
      else t = math.huge end
    else
      f[n + 1] = name .. 'n'; f[n + 2] = format('%.0f', A[i])
      t = DAY
    end
    if t > ttl[k] then ttl[k] = t end
  end
end
for k, f in pairs(w) do
  local n, x, t = #f, tonumber(vals[k][1] or false), ttl[k]
  if marked[k] or begins[k] then f[n + 1] = 'g'; f[n + 2] = marked[k] and gen or begun; n = n + 2 end
  if t == math.huge then -- a total budget never expires
    if x ~= 0 then f[n + 1] = 'x'; f[n + 2] = '0' end
    call('HSET', KEYS[k], unpack(f))
    if x and x ~= 0 then call('PERSIST', KEYS[k]) end
  elseif x ~= 0 and (not x or x - now < t / 2) then
    f[n + 1] = 'x'; f[n + 2] = format('%.0f', now + t)
    call('HSET', KEYS[k], unpack(f))
    call('PEXPIRE', KEYS[k], format('%.0f', t))
  else call('HSET', KEYS[k], unpack(f)) end
end
if changed then seq = call('HINCRBY', KEYS[1], 'seq', 1) end
if reaping then
  if call('HLEN', KEYS[4]) - call('HEXISTS', KEYS[4], '#') == 0 then
    call('ZREM', KEYS[2], reaping)
    if call('EXISTS', KEYS[4]) == 1 then call('PEXPIRE', KEYS[4], DAY) end -- the fence must outlive late duplicates
  end
else
  call('HSET', KEYS[4], '#', format('%.0f', fence))
end
return cmsgpack.pack({now, seq, before, live, settled, out, A, B, C})
