"""The example in the documentation of the engine interface works."""

from __future__ import annotations

import inspect
import textwrap
from typing import Any

from windrow.errors import InvalidInput
from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.core.outcomes import Done, Failed
from windrow.scheduler.core.planning import plan_batches
from windrow.worker.engines import base
from windrow.worker.engines.loading import batch_limits


def test_the_documented_engine_answers_good_inputs_and_refuses_bad_ones() -> None:
    documentation = inspect.getdoc(base) or ""
    code = documentation[documentation.index("    class LengthEngine") : documentation.index("What happens to")]
    names: dict[str, Any] = {**vars(base), "ModelSettings": ModelSettings, "Done": Done, "InvalidInput": InvalidInput}
    exec("from __future__ import annotations\n" + textwrap.dedent(code), names)
    settings = ModelSettings(task="embed", source="anywhere")
    engine = names["LengthEngine"]("lengths", settings)
    text, number = engine.prepare(["four", 4], [{}, {}])
    assert isinstance(number, Failed)
    (batch,) = plan_batches(engine.info.strategy, [text.size], batch_limits(settings, engine.info))
    assert engine.collect(engine.forward([text], batch)) == [Done({"length": 4})]
