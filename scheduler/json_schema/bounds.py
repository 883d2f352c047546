"""How large a JSON schema may be. Its text grows into many states of a grammar, and each of them is laid over the whole
vocabulary of the model: without bounds one schema occupies a worker for minutes.
"""

from __future__ import annotations

import json

#: As JSON without spaces, in UTF-8.
MAX_SCHEMA_BYTES = 32 * 1024
#: Objects and arrays inside each other.
MAX_SCHEMA_DEPTH = 64


def require_bounded(schema: object) -> object:
    """Return ``schema``; raise `ValueError` naming the bound that it is over."""
    level = [schema]
    for _ in range(MAX_SCHEMA_DEPTH):
        level = [inner for one in level for inner in _parts(one) if isinstance(inner, (dict, list))]
    if level:
        raise ValueError(f"takes at most {MAX_SCHEMA_DEPTH} objects and arrays inside each other, and these are more")
    try:
        size = len(json.dumps(schema, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode())
    except UnicodeEncodeError:
        raise ValueError("holds half a surrogate pair, which is no character") from None
    if size > MAX_SCHEMA_BYTES:
        raise ValueError(f"takes at most {MAX_SCHEMA_BYTES} bytes of JSON, and these are {size}")
    return schema


def _parts(value: object) -> list[object]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
