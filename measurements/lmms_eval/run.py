"""Evaluate a checkpoint with lmms-eval, the harness of many published tables.

    make lmms-eval
    python -m measurements.lmms_eval.run --model runs/quickstart/checkpoints/step_80/hf \\
        --tasks mathvision_reason_testmini_reasoning mathvista_testmini_cot_reasoning \\
        --output runs/lmms_eval

runs lmms-eval's own command line with its own model class, prompts and rules. It writes its results
and responses below `--output`. `--data TASK=FOLDER` takes the data from a local copy (saved by
`datasets`, or a download of the hub's folder). With a checkpoint folder and a copy for each task
the hub is not used. `--base_url http://127.0.0.1:8000/v1` asks a running server that knows
`--model` by name.

Tasks whose names end in `_reasoning` are scored by rule. lmms-eval loads weights in bfloat16, and
with `--limit` its `wemath` measures are wrong.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from measurements.lmms_eval import tasks
from measurements.lmms_eval.environment import DEFAULT, Environment
from vlm_rl.config import one_line_errors


def run(arguments: Sequence[str] | None = None) -> None:
    """Evaluate as the command line says; the last printed line has the results.

    Raises SystemExit with status 2 for a wrong command, 1 if lmms-eval gives no result.
    """
    options = _parser().parse_args(arguments)
    with one_line_errors("measurements.lmms_eval.run"):
        environment = Environment(options.environment)
        files = tasks.find(environment.tasks, options.tasks)
        _refuse_judges(files)
        model = _served(options) if options.base_url else _loaded(options)
        output = options.output.resolve()
        before = set(output.rglob("*_results.json"))
        with tempfile.TemporaryDirectory() as folder:
            copies, empty = Path(folder, "tasks"), Path(folder, "empty")
            copies.mkdir()
            empty.mkdir()
            names = tasks.write_local(files, dict(options.data), copies)
            local = set(files) == {name for name, _ in options.data}
            status = environment.run(
                "inside",
                [*model, *_common(options, names, copies, output)],
                folder=empty,
                offline=local and not options.base_url and Path(options.model).is_dir(),
            )
    written = set(output.rglob("*_results.json")) - before
    # its status is 0 even if an evaluation has failed
    if status or not written:
        raise SystemExit("lmms-eval gave no result; see its messages above")
    for path in sorted(written):
        print(f"{_summary(json.loads(path.read_text(encoding='utf-8')))}; {path}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="a checkpoint, or its name on the server")
    parser.add_argument("--tasks", nargs="+", required=True, metavar="TASK")
    parser.add_argument("--data", nargs="*", default=[], type=_pair, metavar="TASK=FOLDER")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--limit", type=int, help="only the first problems of each task")
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--base_url", help="of a running OpenAI-compatible server")
    parser.add_argument("--device", help="cuda or cpu [what there is]")
    parser.add_argument("--model_args", default="", help="lmms-eval's, such as max_pixels=1003520")
    parser.add_argument("--gen_kwargs", default="", help="lmms-eval's, such as max_new_tokens=2048")
    parser.add_argument("--environment", type=Path, default=DEFAULT, help="where lmms-eval is")
    return parser


def _pair(text: str) -> tuple[str, Path]:
    task, equals, folder = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not TASK=FOLDER")
    return task, Path(folder)


def _refuse_judges(files: Mapping[str, Path]) -> None:
    """Refuse tasks that need a judge if there is none: lmms-eval would score every response 0."""
    for name, path in files.items():
        if (metric := tasks.judge_metric(path)) and "OPENAI_API_KEY" not in os.environ:
            raise ValueError(
                f"{name} has the metric {metric}, which needs a judge model: set OPENAI_API_KEY, "
                "or choose a task that is scored by rule, whose name ends in _reasoning"
            )


def _loaded(options: argparse.Namespace) -> list[str]:
    """Return the arguments for lmms-eval's own class, which has the name of the model type."""
    import torch  # slow imports, which --help and a wrong task need not wait for

    from vlm_rl.model.policy import check_checkpoint

    model_type = check_checkpoint(options.model).model_type
    path = str(Path(options.model).resolve()) if Path(options.model).is_dir() else options.model
    if {",", "="} & set(path):
        raise ValueError(
            f"--model {path}: lmms-eval cannot take a path with a comma or `=`; rename it"
        )
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    # lmms-eval moves inputs to a GPU if its device_map is the default
    return ["--model", model_type, *_model_args(options, pretrained=path, device_map=device)]


def _served(options: argparse.Namespace) -> list[str]:
    arguments = _model_args(options, model_version=options.model, base_url=options.base_url)
    return ["--model", "async_openai", *arguments]


def _model_args(options: argparse.Namespace, **named: str) -> list[str]:
    pairs = [f"{name}={value}" for name, value in named.items()]
    if "device_map" in named:
        pairs.append(f"device={named['device_map']}")
    return ["--model_args", ",".join([*pairs, *filter(None, [options.model_args])])]


def _common(
    options: argparse.Namespace, names: Sequence[str], copies: Path, output: Path
) -> list[str]:
    chosen = [
        f"--tasks={','.join(names)}",
        f"--include_path={copies}",
        f"--output_path={output}",
        f"--batch_size={options.batch_size}",
        "--log_samples",
        # by default it scores in threads, where math-verify raises an error that counts as 0
        "--process_docs_parallel=1",
    ]
    if options.limit is not None:
        chosen.append(f"--limit={options.limit}")
    if options.gen_kwargs:
        chosen.append(f"--gen_kwargs={options.gen_kwargs}")
    return chosen


def _summary(results: Mapping[str, Any]) -> str:
    """Return `TASK acc_score 0.2500 (304 problems)` for each task.

    The format score is left out, because lmms-eval cuts the thinking off before it looks for it.
    """
    parts = []
    for task, measured in results["results"].items():
        scores = [
            f"{name.partition(',')[0]} {value:.4f}"
            for name, value in measured.items()
            if isinstance(value, int | float) and not ("stderr" in name or "format_score" in name)
        ]
        problems = results["n-samples"].get(task, {}).get("effective", "?")
        parts.append(f"{task} {' '.join(scores)} ({problems} problems)")
    return "; ".join(parts)


if __name__ == "__main__":
    run()
