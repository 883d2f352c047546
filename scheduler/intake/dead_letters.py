"""Submits dead letters again, for ``windrow dead retry``."""

from __future__ import annotations

from collections.abc import Sequence

from windrow.scheduler.intake.intake import Intake
from windrow.scheduler.intake.submit_call import SubmitCall
from windrow.scheduler.queue import DeadLetters
from windrow.scheduler.tasks import TASKS


def retry_dead_letters(intake: Intake, letters: DeadLetters, ids: Sequence[str]) -> dict[str, str]:
    """Submit dead letters as new requests and drop them; return old id -> new id of those that existed.

    A final state does not change, so the old predictions stay failed. The requests keep their cost, and limits are not
    checked again. Raises the errors of `Intake.submit`; the letters after the one that raises are left as they are.
    """
    renamed: dict[str, str] = {}
    task = TASKS[intake.require_model(letters.model).task]
    for letter in letters.find(ids):
        call = letter.call()
        submit = SubmitCall(
            model=letters.model,
            inputs=[call["input"]],
            parameters=task.read_parameters(call.get("parameters")),
            priority=letter.priority,
            is_followed=bool(call.get("stream")),
            waits_for_worker=True,
            admitted_costs=[letter.cost_tokens],
        )
        (new,) = intake.submit(submit, letter.tenant, intake.new_ids(letter.tenant, 1))
        letters.drop([letter.id])
        renamed[letter.id] = new.id
    return renamed
