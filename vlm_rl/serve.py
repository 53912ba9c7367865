"""Start the vLLM server of a run on this node, for a trainer on this or another node:

python -m vlm_rl.serve --config X.yaml --host 0.0.0.0 --port 8000

It reads the run's own config, so that both sides have the same precision and the same limits on
images and lengths. The run then sets `engine: {class_path: vlm_rl.rollout.VLLMServer, init_args:
{url: http://this-node:8000}}`. The trainer sends the weights when it starts. Both need the same
secret in the environment variable VLM_RL_SERVER_TOKEN; the server refuses every request without.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from vlm_rl.config import instantiate, one_line_errors, parse
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.fit import build_parser
from vlm_rl.model.policy import check_checkpoint
from vlm_rl.rollout import VLLMServer
from vlm_rl.rollout.vllm import die_with_parent, gate
from vlm_rl.rollout.vllm.server import end_server
from vlm_rl.run.endings import ENGINE, Ending, one_line_endings
from vlm_rl.show.screen import say, warn


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until the server or this process is told to end."""
    with one_line_endings("vlm_rl.serve") as ending:
        _serve(argv, ending)


def _serve(argv: Sequence[str] | None, ending: Ending) -> None:
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
        place, rest = own.parse_known_args(argv)
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
        parts.engine.check_model(model_config)
        encoder = PromptEncoder(config.policy.path, **vars(parts.prompt))
    with tempfile.TemporaryDirectory(prefix="vlm_rl_serve_") as folder:
        parts.engine.prepare(Path(folder), model_config, encoder, parts.sampling)
        command = parts.engine.command(place.host, place.port)
        ending.left = "the server has ended"
        say(f"a vLLM server for {config.policy.path} at http://{place.host}:{place.port}")
        sys.stdout.flush()
        status = _run(command, parts.engine.environment(token))
    warn(f"vlm_rl.serve: the server has ended by itself with status {status}")
    raise SystemExit(ENGINE)


def _run(command: list[str], environment: dict[str, str]) -> int:
    """Return the status of a server that ends by itself; end it with this process."""
    server = subprocess.Popen(
        [sys.executable, die_with_parent.__file__, *command],
        stdin=subprocess.PIPE,  # closes when this process ends, even if it is killed
        env=environment,
        start_new_session=True,  # Ctrl-C reaches this process only, which ends the server
    )
    try:
        return server.wait()
    finally:
        end_server(server)


if __name__ == "__main__":
    main()
