"""``windrow bench record``: a run recorded request by request."""
