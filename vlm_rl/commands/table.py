"""The commands, with what is imported for each. Imports the standard library only."""

from typing import NamedTuple


class Entry(NamedTuple):
    """A command: the module whose `main(argv)` it runs, and what it is for."""

    module: str
    purpose: str


COMMANDS = {
    "fit": Entry("vlm_rl.fit", "train a policy, or resume its run"),
    "preflight": Entry("vlm_rl.preflight.__main__", "what can go wrong, before the first GPU hour"),
    "view": Entry("vlm_rl.view.__main__", "look at runs: curves, completions, images"),
    "evaluate": Entry("vlm_rl.evaluate", "measure checkpoints on benchmarks or your own rows"),
    "study": Entry("vlm_rl.study", "compare settings over several seeds"),
    "ask": Entry("vlm_rl.ask", "ask a checkpoint one question about an image"),
    "upload": Entry("vlm_rl.upload.__main__", "publish a checkpoint with its model card"),
    "init": Entry("vlm_rl.commands.init", "make the folder of a project of your own"),
    "recipes": Entry("vlm_rl.commands.recipes", "list the configurations that have a name"),
    "data": Entry("vlm_rl.commands.data", "make the synthetic set, convert public data sets"),
    "audit": Entry("data_prep.audit", "look at a data set before training on it"),
    "verify": Entry("vlm_rl.verify", "check the answers in a file against their golds"),
    "health": Entry("vlm_rl.health.__main__", "what has gone wrong in runs, after the fact"),
    "hardware": Entry("vlm_rl.hardware", "how much memory a run needs, by arithmetic"),
    "serve": Entry("vlm_rl.serve", "start the vLLM server of a run"),
    "completion": Entry("vlm_rl.commands.completion", "make the Tab key complete commands"),
}
"""In the order of the first page. A module is imported when its command is run."""
