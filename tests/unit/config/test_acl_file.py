"""The rights that deploy/redis-acl.conf gives, held against the scripts that need them."""

import re
from pathlib import Path

import pytest

from tests.support.acl import ROLES, allowed_commands
from windrow.scheduler.queue.scripts import NAMES, source

LUA = Path(__file__).parents[3] / "scheduler/queue/lua"
API, WORKER, HOUSEKEEPING = ROLES
#: Who runs each script: the API, what claims and finishes, and the tasks and commands of an operator.
CALLERS = {
    "submit": (API, WORKER, HOUSEKEEPING),
    "cancel": (API, WORKER, HOUSEKEEPING),
    "claim": (WORKER,),
    "renew": (WORKER,),
    "append_events": (WORKER,),
    "finish": (WORKER,),
    "publish_results": (WORKER,),
    "release": (WORKER,),
    "heartbeat": (WORKER,),
    "claim_times": (API, WORKER, HOUSEKEEPING),
    "find_overdue": (WORKER, HOUSEKEEPING),
    "reap": (WORKER, HOUSEKEEPING),
    "webhook_claim": (HOUSEKEEPING,),
    "webhook_done": (HOUSEKEEPING,),
    "webhook_postpone": (HOUSEKEEPING,),
}


def commands_of(script: str) -> set[str]:
    """The commands that a script may call, those of the files that it includes among them."""
    code = source(script).code.replace("'PUBSUB', '", "'PUBSUB|")
    return {name.lower() for name in re.findall(r"redis\.p?call\(\s*'([\w|]+)'", code)}


def test_every_script_is_known_here_with_its_callers() -> None:
    assert {path.stem for path in LUA.glob("*.lua")} - {"schema"} == set(CALLERS) == NAMES


def test_every_call_of_a_script_names_its_command_so_that_it_can_be_seen_here() -> None:
    for path in LUA.rglob("*.lua"):
        text = path.read_text()
        assert len(re.findall(r"redis\.p?call\(", text)) == len(re.findall(r"redis\.p?call\(\s*'\w+'", text)), path.name


@pytest.mark.parametrize("script", CALLERS)
def test_who_calls_a_script_may_call_what_it_calls(script: str) -> None:
    allowed = allowed_commands()
    missing = {role: commands_of(script) - allowed[role] for role in CALLERS[script]}
    assert missing == {role: set() for role in CALLERS[script]}
