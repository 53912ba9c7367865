"""Malicious files: nothing that is read runs."""

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from measurements.attacks.ground import ENDINGS, Attack, Ground

MARK = "it_ran"


class Payload:
    """Creates `mark` when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def _changed_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _module(folder: Path, mark: Path) -> dict[str, str]:
    """Write a module that leaves a mark when it is imported; return what would name its classes."""
    (folder / "own.py").write_text(f"import os\nos.mkdir({str(mark)!r})\n")
    return {name: f"own.{name}" for name in ("AutoConfig", "AutoModel", "AutoProcessor")}


def _shell(mark: Path) -> str:
    return f"__import__('os').mkdir({str(mark)!r})"


Planter = Callable[[Path, Path, Path], None]
"""Called with a run's folder, a copy of the checkpoint, and the mark that must not appear."""


def _in_trainer(key: str) -> Planter:
    def plant(run: Path, checkpoint: Path, mark: Path) -> None:
        file = run / "checkpoints/step_2/trainer.ckpt"
        torch.save({**torch.load(file, weights_only=True), key: Payload(mark)}, file)

    return plant


def _weights(name: str) -> Planter:
    def plant(run: Path, checkpoint: Path, mark: Path) -> None:
        (checkpoint / "model.safetensors").unlink()
        torch.save({"lm_head.weight": Payload(mark)}, checkpoint / name)
        if name.startswith("adapter"):
            config = {"peft_type": "LORA", "base_model_name_or_path": str(checkpoint)}
            config |= {"target_modules": ["q_proj"]}
            (checkpoint / "adapter_config.json").write_text(json.dumps(config))

    return plant


def _template(text: str) -> Planter:
    def plant(run: Path, checkpoint: Path, mark: Path) -> None:
        (checkpoint / "chat_template.jinja").write_text(text.replace("MARK", str(mark)))

    return plant


def _auto_map(name: str) -> Planter:
    def plant(run: Path, checkpoint: Path, mark: Path) -> None:
        _changed_json(checkpoint / name, auto_map=_module(checkpoint, mark))

    return plant


def _yaml_tag(tag: str) -> Planter:
    def plant(run: Path, checkpoint: Path, mark: Path) -> None:
        text = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(f"{text}\nplanted: !!python/{tag} [{str(mark)!r}]\n")

    return plant


def _rows(name: str, content: Callable[[Path], bytes]) -> Planter:
    def plant(run: Path, checkpoint: Path, mark: Path) -> None:
        (checkpoint.parent / name).write_bytes(content(mark))

    return plant


def _pickled(mark: Path) -> bytes:
    file = mark.with_name("pickled")
    torch.save(Payload(mark), file)
    return file.read_bytes()


def _run_file(name: str) -> Planter:
    def plant(run: Path, checkpoint: Path, mark: Path) -> None:
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).unlink(missing_ok=True)
        torch.save(Payload(mark), run / name)

    return plant


def _answers(run: Path, checkpoint: Path, mark: Path) -> None:
    rows = [
        {"uid": f"answer {n}", "problem": "What?", "answer": text, "images": []}
        for n, text in enumerate(
            (
                _shell(mark),
                rf"\boxed{{{_shell(mark)}}}",
                f"lambda: {_shell(mark)}",
                _shell(mark) * 9,
            )
        )
    ]
    (checkpoint.parent / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows * 1))


def _index(target: str) -> Planter:
    def plant(run: Path, checkpoint: Path, mark: Path) -> None:
        (checkpoint / "model.safetensors").unlink()
        index = {"metadata": {}, "weight_map": {"lm_head.weight": target}}
        (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))

    return plant


def _header(size: int, text: bytes = b"{}") -> Planter:
    def plant(run: Path, checkpoint: Path, mark: Path) -> None:
        header = size.to_bytes(8, "little") + text
        (checkpoint / "model.safetensors").write_bytes(header)

    return plant


PLANTED: dict[str, Planter] = {
    **{f"trainer.ckpt, {key}": _in_trainer(key) for key in ("callbacks", "loops", "vlm_rl", "own")},
    **{
        f"weights, {name}": _weights(name)
        for name in ("pytorch_model.bin", "adapter_model.bin", "model.pt", "training_args.bin")
    },
    "template, attributes": _template(
        "{{ cycler.__init__.__globals__.os.mkdir('MARK') }}{{ messages }}"
    ),
    "template, subclasses": _template(
        "{% for c in ''.__class__.__mro__[1].__subclasses__() %}{{ c.__init__.__globals__ }}"
        "{% endfor %}"
    ),
    "template, endless": _template(
        "{% for a in range(10**9) %}{% for b in range(10**9) %}{% endfor %}{% endfor %}"
    ),
    "template, huge": _template("{{ 'x' * 10**10 }}"),
    "template, include": _template("{% include '/etc/passwd' %}"),
    "template, recursive": _template("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"),
    **{
        f"auto_map, {name}": _auto_map(name)
        for name in ("config.json", "tokenizer_config.json", "processor_config.json")
    },
    "config.yaml, apply": _yaml_tag("object/apply:os.mkdir"),
    "config.yaml, name": _yaml_tag("name:os.mkdir"),
    "rows, pickled": _rows("train.jsonl", _pickled),
    "rows, a script": _rows(
        "train.py", lambda mark: f"import os\nos.mkdir({str(mark)!r})".encode()
    ),
    "rows, pickled as parquet": _rows("train.parquet", _pickled),
    "answers": _answers,
    "metrics.csv, pickled": _run_file("metrics.csv"),
    "summary.json, pickled": _run_file("summary.json"),
    "heartbeat, pickled": _run_file("heartbeat/rank_0.json"),
    "hf weights of the run, pickled": _run_file("checkpoints/step_2/hf/pytorch_model.bin"),
    "index, outside": _index("../../../../etc/passwd"),
    "index, absolute": _index("/dev/zero"),
    "safetensors, endless header": _header(2**62),
    "safetensors, no header": _header(2, b"{"),
    "safetensors, offsets": _header(
        70, b'{"lm_head.weight":{"dtype":"F32","shape":[9],"data_offsets":[0,9]}}   '
    ),
}


def attacks(ground: Ground, count: int, seed: int) -> Iterator[Attack]:
    """Yield starts of a begun run with one file planted."""
    names = random.Random(seed).sample([*PLANTED], min(count, len(PLANTED)))
    for name in names:

        def tried(folder: Path, name: str = name) -> str:
            return _tried(ground, folder, name)

        yield Attack("malicious files", name, tried)


def _tried(ground: Ground, folder: Path, name: str) -> str:
    run, mark = ground.begun(folder), folder / MARK
    checkpoint = Path(shutil.copytree(ground.checkpoint, folder / "planted/checkpoint"))
    PLANTED[name](run, checkpoint, mark)
    rows = list(checkpoint.parent.glob("train.*"))
    data = {"data.train": json.dumps([{"path": str(path)} for path in rows])} if rows else {}
    in_run = name.partition(",")[0] in ("trainer.ckpt", "config.yaml") or "run" in name
    if in_run or (name.endswith("pickled") and not rows):
        broke = ground.run(run).broke(*ENDINGS)
    else:
        fresh = {"policy.path": checkpoint, "data.on_bad_row": "skip", "steps": 1} | data
        broke = ground.run(folder / "fresh", **fresh).broke(*ENDINGS)
    return "IT RAN" if mark.exists() else broke
