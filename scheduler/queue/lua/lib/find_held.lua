-- Finds the requests that the claims of given attempt tokens still hold.
-- KEYS: claims
-- Uses: held places
-- Returns i -> position of ids[i] in the claim tokens[i], for the requests that this claim still holds.
local function find_held(ids, tokens)
  local held, claims, places, found = read_claims(HELD, tokens), read_claims(CLAIMS, tokens), {}, {}
  for i, id in ipairs(ids) do
    local token = tokens[i]
    local digits, in_claim = held[token], places[token]
    if digits and not in_claim then
      in_claim = places_in(claims[token] or '')
      places[token] = in_claim
    end
    local place = digits and in_claim[id]
    if place and string.byte(digits, place) == HOLDS then found[i] = place end
  end
  return found
end
