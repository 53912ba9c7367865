"""What `fit` says at every start: the cheap inspections of what it has built."""

from collections.abc import Iterator, Mapping
from typing import Any

from vlm_rl.data.datamodule import ProblemData
from vlm_rl.preflight.inspections import CHEAP
from vlm_rl.preflight.remarks import inspect, line_of
from vlm_rl.preflight.start import SHAPES, Problems, Start


def notices(data: ProblemData, given: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each warning; what would be a stop in preflight is a warning here, since
    `fit` has stops of its own. `given` are the other stages of a `Start`."""
    stops = data.on_bad_row == "stop"
    problems = {
        "train": Problems(data.train_set, [], data.images, stops),
        "val": Problems(data.val_set, [], data.images, stops),
    }
    inspected = inspect(Start({**given, **problems}, SHAPES), CHEAP)
    for remark in (*inspected.at("stop"), *inspected.at("warning")):
        yield f"warning, {remark.name}: {line_of(remark)}"
