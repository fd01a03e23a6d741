local call, sub, byte, n = redis.call, string.sub, string.byte, #KEYS / 2
local found = call('MGET', unpack(KEYS, 1, n))
local absent, at, removed = {}, {}, {}
for i = 1, n do
  if not found[i] then absent[#absent + 1] = KEYS[n + i]; at[#at + 1] = i end
end
if #at > 0 then
  local left = call('MGET', unpack(absent))
  for i = 1, #at do removed[at[i]] = left[i] end
end
local answer = {}
for i = 1, n do
  local value, ttl, says, refreshes, removes, asks = ARGV[2 * i - 1], ARGV[2 * i], false, false, false, false
  while byte(ttl) > 57 do
    local letter = byte(ttl)
    says, refreshes, removes, asks = says or letter == 101, letter == 98, letter == 120, asks or letter == 110
    ttl = sub(ttl, 2)
  end
  -- An order is a letter, 19 digits, a dash and 16 digits; a quote and a brace end the value.
  local stands, is_newer, said, quote, kind = found[i] or removed[i], true, false, nil, nil
  if stands then quote, kind = byte(stands, -40, -39) end
  if quote == 34 and (kind == 115 or kind == 116) then
    local accepted, before = sub(value, -18, -3), sub(stands, -18, -3)
    said = kind == 115 or sub(stands, -35, -20) ~= before
    if says and said and byte(value, -39) == kind then
      is_newer = sub(value, -39, -3) > sub(stands, -39, -3)
    else
      is_newer = accepted > before
    end
    if is_newer and said and not says then
      value = sub(value, 1, -40) .. sub(stands, -39, -19) .. sub(value, -18)
    elseif not is_newer and accepted ~= before then
      answer[#answer + 1] = i
    elseif not is_newer and asks and found[i] then
      answer[#answer + 1] = 1000 + i
    end
  end
  if is_newer then
    if removes then
      if found[i] then
        call('UNLINK', KEYS[i])
        answer[#answer + 1] = -i
      end
      call('PSETEX', KEYS[n + i], ttl, value)
    elseif refreshes and removed[i] then
      answer[#answer + 1] = i
    else
      call('PSETEX', KEYS[i], ttl, value)
      if asks and not said then answer[#answer + 1] = 1000 + i end
    end
  end
end
return answer
