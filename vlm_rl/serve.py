"""Start the vLLM server of a run on this node, for a trainer on this or another node:

python -m vlm_rl.serve --config X.yaml --host 0.0.0.0 --port 8000

It reads the run's own config, so that both sides have the same precision and the same limits on
images and lengths. The run then sets `engine: {class_path: vlm_rl.rollout.VLLMServer, init_args:
{url: http://this-node:8000}}`. The trainer sends the weights when it starts. Both need the same
secret in the environment variable VLM_RL_SERVER_TOKEN; the server refuses every request without.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from vlm_rl.config import instantiate, one_line_errors, parse
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.fit import build_parser
from vlm_rl.model.policy import check_checkpoint
from vlm_rl.rollout import VLLMServer
from vlm_rl.rollout.vllm import gate
from vlm_rl.show.screen import say


def main() -> None:
    """Replace this process by the server."""
    with one_line_errors("vlm_rl.serve"):
        own = argparse.ArgumentParser(
            "vlm_rl.serve",
            description=__doc__,
            epilog="All other options are those of vlm_rl.fit.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        own.add_argument("--host", default="127.0.0.1", help="the address to listen on")
        own.add_argument("--port", type=int, default=8000)
        place, rest = own.parse_known_args()
        parser = build_parser()
        config = parse(parser, rest)
        parts = instantiate(parser, config)
        if not isinstance(parts.engine, VLLMServer):
            raise ValueError(
                f"engine.class_path={config.engine.class_path} is not a server; set it to "
                "vlm_rl.rollout.VLLMServer"
            )
        parts.engine.check(parts.sampling)
        token = gate.shared_token()
        model_config = check_checkpoint(config.policy.path)
        encoder = PromptEncoder(config.policy.path, **vars(parts.prompt))
    folder = Path(tempfile.mkdtemp(prefix="vlm_rl_serve_"))
    parts.engine.prepare(folder, model_config, encoder, parts.sampling)
    command = parts.engine.command(place.host, place.port)
    say(f"a vLLM server for {config.policy.path} at http://{place.host}:{place.port}")
    sys.stdout.flush()
    os.execve(command[0], command, parts.engine.environment(token))


if __name__ == "__main__":
    main()
