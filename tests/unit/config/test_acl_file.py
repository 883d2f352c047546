"""Check that deploy/redis-acl.conf grants each role the commands of the scripts that it runs."""

import re
from pathlib import Path

import pytest

from tests.support.acl import ROLES, allowed_commands
from windrow.scheduler.queue.scripts import NAMES, source

LUA = Path(__file__).parents[3] / "scheduler/queue/lua"
API, WORKER, HOUSEKEEPING = ROLES
#: The roles that run each script.
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
    """Return the commands that a script calls, including those of the files that it includes."""
    code = source(script).code.replace("'PUBSUB', '", "'PUBSUB|")
    return {name.lower() for name in re.findall(r"redis\.p?call\(\s*'([\w|]+)'", code)}


def test_every_script_is_listed_with_its_callers() -> None:
    assert {path.stem for path in LUA.glob("*.lua")} - {"schema"} == set(CALLERS) == NAMES


def test_scripts_call_redis_commands_by_literal_names_only() -> None:
    for path in LUA.rglob("*.lua"):
        text = path.read_text()
        assert len(re.findall(r"redis\.p?call\(", text)) == len(re.findall(r"redis\.p?call\(\s*'\w+'", text)), path.name


@pytest.mark.parametrize("script", CALLERS)
def test_every_caller_of_a_script_may_run_its_commands(script: str) -> None:
    allowed = allowed_commands()
    missing = {role: commands_of(script) - allowed[role] for role in CALLERS[script]}
    assert missing == {role: set() for role in CALLERS[script]}
