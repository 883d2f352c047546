"""The rights that deploy/redis-acl.conf gives, held against the scripts that need them."""

import re
from pathlib import Path

import pytest

from tests.support.acl import ROLES, allowed_commands

LUA = Path(__file__).parents[3] / "scheduler/queue/lua"
API, WORKER, HOUSEKEEPING = ROLES
#: Who runs each script: the API, what claims and finishes, and the tasks and commands of an operator.
CALLERS = {
    "submit": (API, WORKER, HOUSEKEEPING),
    "cancel": (API, WORKER, HOUSEKEEPING),
    "claim": (WORKER,),
    "renew": (WORKER,),
    "tell": (WORKER,),
    "finish": (WORKER,),
    "stored": (WORKER,),
    "release": (WORKER,),
    "heartbeat": (WORKER,),
    "holders": (API, WORKER, HOUSEKEEPING),
    "overdue": (WORKER, HOUSEKEEPING),
    "reap": (WORKER, HOUSEKEEPING),
    "webhook_claim": (HOUSEKEEPING,),
    "webhook_done": (HOUSEKEEPING,),
    "webhook_later": (HOUSEKEEPING,),
}


def commands_of(script: str) -> set[str]:
    """What a script, and the schema that stands before it, may call."""
    text = (LUA / "schema.lua").read_text() + (LUA / f"{script}.lua").read_text()
    return {
        name.lower() for name in re.findall(r"redis\.p?call\(\s*'([\w|]+)'", text.replace("'PUBSUB', '", "'PUBSUB|"))
    }


def test_every_script_is_known_here_with_its_callers() -> None:
    assert {path.stem for path in LUA.glob("*.lua")} - {"schema"} == set(CALLERS)


def test_every_call_of_a_script_names_its_command_so_that_it_can_be_seen_here() -> None:
    for path in LUA.glob("*.lua"):
        text = path.read_text()
        assert len(re.findall(r"redis\.p?call\(", text)) == len(re.findall(r"redis\.p?call\(\s*'\w+'", text)), path.name


@pytest.mark.parametrize("script", CALLERS)
def test_who_calls_a_script_may_call_what_it_calls(script: str) -> None:
    allowed = allowed_commands()
    missing = {role: commands_of(script) - allowed[role] for role in CALLERS[script]}
    assert missing == {role: set() for role in CALLERS[script]}
