"""Limits on the size of a JSON schema: without them, one request could occupy the API or a worker for minutes."""

from __future__ import annotations

import json

#: Bytes of the schema as JSON without spaces, in UTF-8.
MAX_SCHEMA_BYTES = 32 * 1024
#: Levels of nested objects and arrays.
MAX_SCHEMA_DEPTH = 64
#: Least common multiple of all values of ``multipleOf``: a grammar has up to that many states for remainders.
MAX_COMMON_MULTIPLE = 1000


def require_bounded(schema: object) -> object:
    """Return ``schema``; raise `ValueError` if it is too large, too deep or not JSON."""
    level = [schema]
    for _ in range(MAX_SCHEMA_DEPTH):
        level = [child for value in level for child in children(value) if isinstance(child, (dict, list))]
    if level:
        raise ValueError(f"takes at most {MAX_SCHEMA_DEPTH} levels of nested objects and arrays; this schema has more")
    try:
        size = len(json.dumps(schema, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode())
    except UnicodeEncodeError:
        raise ValueError("contains half a surrogate pair, which is not a character") from None
    if size > MAX_SCHEMA_BYTES:
        raise ValueError(f"takes at most {MAX_SCHEMA_BYTES} bytes of JSON, not {size}")
    return schema


def children(value: object) -> list[object]:
    """Return the members of an object or an array; [] for any other value."""
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
