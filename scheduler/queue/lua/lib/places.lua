-- Returns id -> position in a value of `claims`; the time of the claim has position 0.
local function places_in(claim)
  local places, at = {}, -1
  for word in string.gmatch(claim, '%S+') do at, places[word] = at + 1, at + 1 end
  return places
end
