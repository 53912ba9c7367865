"""The commands, with what is imported for each. Imports the standard library only."""

from typing import NamedTuple


class Listed(NamedTuple):
    """A command: the module whose `main(argv)` it runs, and what it is for."""

    module: str
    purpose: str


COMMANDS = {
    "fit": Listed("vlm_rl.fit", "train a policy, or resume its run"),
    "preflight": Listed("vlm_rl.preflight.__main__", "what can go wrong, before a GPU hour"),
    "view": Listed("vlm_rl.view.__main__", "look at runs: curves, completions, images"),
    "evaluate": Listed("vlm_rl.evaluate", "measure checkpoints on benchmarks or your own rows"),
    "study": Listed("vlm_rl.study", "compare settings over several seeds"),
    "ask": Listed("vlm_rl.ask", "ask a checkpoint one question about an image"),
    "upload": Listed("vlm_rl.upload.__main__", "publish a checkpoint with its model card"),
    "init": Listed("vlm_rl.commands.init", "make the folder of a project of your own"),
    "recipes": Listed("vlm_rl.commands.recipes", "list the configurations that have a name"),
    "data": Listed("vlm_rl.commands.data", "make the synthetic set, convert public data sets"),
    "audit": Listed("data_prep.audit", "look at a data set before training on it"),
    "verify": Listed("vlm_rl.verify", "check the answers in a file against their golds"),
    "health": Listed("vlm_rl.health.__main__", "what has gone wrong in runs, after the fact"),
    "hardware": Listed("vlm_rl.hardware", "how much memory a run needs, by arithmetic"),
    "serve": Listed("vlm_rl.serve", "start the vLLM server of a run"),
    "completion": Listed("vlm_rl.commands.completion", "make the Tab key complete commands"),
}
"""In the order of the first page. A module is imported when its command is run."""
