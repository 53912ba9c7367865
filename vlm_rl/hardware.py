"""How much memory a run needs: `python -m vlm_rl.hardware --config X.yaml [--dotted.key value]`.

Arguments are those of vlm_rl.fit. Only the model's config.json is read.
"""

from collections.abc import Sequence

import pandas as pd

from vlm_rl.config import instantiate, one_line_errors, parse
from vlm_rl.fit import build_parser
from vlm_rl.memory.estimate import NODE_PHASES, PHASES, USABLE, MemoryEstimate, estimate
from vlm_rl.memory.model_shape import ModelShape, count
from vlm_rl.model.policy import check_checkpoint
from vlm_rl.run.memory_setup import setup_of
from vlm_rl.run.trainer import ELSEWHERE
from vlm_rl.show.screen import say_all

GB = 1e9
GPU_GB = (24, 40, 80, 141)


def main(argv: Sequence[str] | None = None) -> None:
    """Print what the run of a configuration needs."""
    with one_line_errors("vlm_rl.hardware"):
        parser = build_parser()
        parser.usage, parser.description = "vlm-rl hardware [--KEY VALUE ...]", __doc__
        config = parse(parser, argv, ELSEWHERE)
        parts = instantiate(parser, config)
        setup, checkpoint = setup_of(config, parts), check_checkpoint(config.policy.path)
        model = ModelShape(checkpoint, freeze=config.policy.freeze, lora=parts.policy.lora)
    trained = f"{count(model.weights):,} parameters, {count(model.trained):,} of them trained"
    say_all(f"{trained}; GPUs: {setup.gpus}, nodes: {setup.nodes}, strategy: {setup.strategy}.\n")
    say_all(items(estimate(model, setup)))


def items(needs: MemoryEstimate) -> str:
    """Return a table in GB of 1e9 bytes: every item, their sum, and what a GPU of each size has to
    hold, where vLLM takes its share."""
    frame = pd.DataFrame(needs.items) / GB
    frame.loc["sum"] = frame.sum()
    for size in GPU_GB:
        verdict = "fits" if needs.fits(size * GB) else "does not fit"
        row = f"{size} GB, {USABLE * size:.1f} usable: {verdict}"
        frame.loc[row] = {phase: needs.needed(phase, size * GB) / GB for phase in PHASES}
    frame.columns = [*PHASES, *(f"CPU, {phase}" for phase in NODE_PHASES)]
    return str(frame.to_string(float_format="{:.2f}".format, na_rep=""))


if __name__ == "__main__":
    main()
