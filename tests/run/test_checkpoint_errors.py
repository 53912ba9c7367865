"""Malformed checkpoints: each is refused with one line that names its path, before any training.

Mutations tried, each seen red: weights that transformers reports as missing or of another shape not
checked; SafetensorError or StrictDataclassError not caught; a path of three parts taken for a hub
id; the vocabulary not checked; the chat template not tried.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from torch import Tensor

from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.model.policy import Policy

WEIGHTS, QUERY = "model.safetensors", "model.language_model.layers.0.self_attn.q_proj.weight"


def _edit_config(**changes: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return edit


def _edit_query(change: Callable[[Tensor], Tensor] | None) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        (name,) = [name for name in weights if name.endswith("layers.0.self_attn.q_proj.weight")]
        query = weights.pop(name)
        if change is not None:
            weights[name] = change(query)
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})

    return edit


def _sharded(folder: Path) -> None:
    names = {"weight_map": dict.fromkeys(load_file(folder / WEIGHTS), "model-1-of-2.safetensors")}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(names | {"metadata": {}}))
    (folder / WEIGHTS).unlink()


def _halve(name: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return edit


MALFORMED: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (shutil.rmtree, "is not a folder; give a checkpoint folder or a hub id"),
    "a file": (lambda f: (shutil.rmtree(f), f.write_text("x")), "is not a folder"),
    "empty": (lambda f: (shutil.rmtree(f), f.mkdir()), "has no config.json"),
    "text only": (_edit_config(model_type="qwen2"), "holds a 'qwen2' model; supported are"),
    "unknown type": (_edit_config(model_type="qwen9"), "has model type `qwen9` but"),
    "config cut off": (_halve("config.json"), "is not a valid JSON file"),
    "config a list": (lambda f: (f / "config.json").write_text("[1]"), "model_type"),
    "config mistyped": (_edit_config(text_config={"hidden_size": "x"}), "'hidden_size'"),
    "weights cut off": (_halve(WEIGHTS), "file not fully covered"),
    "weights a pointer": (
        lambda f: (f / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\n"),
        "header too large",
    ),
    "weights missing": (lambda f: (f / WEIGHTS).unlink(), "no file named model.safetensors"),
    "a shard missing": (_sharded, "model-1-of-2.safetensors"),
    "a weight missing": (_edit_query(None), f"lacks 1 weights, the first of them {QUERY}"),
    "a weight too small": (
        _edit_query(lambda weight: weight[:10].clone()),
        f"weight {QUERY} has shape [10, 64], but config.json asks for [64, 64]",
    ),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_checkpoint_is_refused_in_one_line_with_its_path(
    kind: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "policy"
    shutil.copytree(checkpoints["qwen2_5_vl"], folder)
    damage, reason = MALFORMED[kind]
    damage(folder)
    with pytest.raises(ValueError, match=r"^\S+policy") as raised:
        Policy.from_pretrained(str(folder))
    message = str(raised.value)
    assert reason in message
    assert str(folder) in message
    assert "\n" not in message


@pytest.mark.parametrize("path", ["./nothing", "../nothing", "runs/a/hf", "~/nothing"])
def test_missing_relative_folder_is_not_taken_for_a_hub_id(path: str) -> None:
    with pytest.raises(ValueError, match=f"{path} is not a folder"):
        Policy.from_pretrained(path)


def test_unknown_hub_id_is_named() -> None:
    with pytest.raises(ValueError, match="nobody/nothing is not a checkpoint that transformers"):
        Policy.from_pretrained("nobody/nothing")


def test_unknown_frozen_part_is_refused_with_the_known_ones(checkpoints: dict[str, Path]) -> None:
    folder = str(checkpoints["qwen2_5_vl"])
    with pytest.raises(ValueError, match=r"'vision'; there are \['vision_tower', 'language_model'"):
        Policy.from_pretrained(folder, freeze=["vision"])


def _without(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink() for name in names] and None


def _write(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


BAD_PROCESSORS: dict[str, tuple[Callable[[Path], None], str]] = {
    "nothing": (shutil.rmtree, "tokenizer or image processor is broken"),
    "no image processor": (_without("processor_config.json"), "Can't load image processor"),
    "image processor cut off": (_write("processor_config.json", "{"), "not a valid JSON file"),
    "no tokenizer": (_without("tokenizer.json", "tokenizer_config.json"), "has no vocabulary"),
    "no vocabulary": (_without("tokenizer.json"), "has no vocabulary; is tokenizer.json missing?"),
    "tokenizer cut off": (_write("tokenizer.json", '{"a'), "Unterminated string"),
    "tokenizer of nothing": (_write("tokenizer.json", "{}"), "added_tokens"),
    "no chat template": (
        _without("chat_template.jinja"),
        "its chat template cannot be used: there is none",
    ),
    "chat template cut off": (
        _write("chat_template.jinja", "{% for"),
        "its chat template cannot be used: unexpected 'end of template'",
    ),
}


@pytest.mark.parametrize("kind", BAD_PROCESSORS)
def test_broken_processor_is_refused_in_one_line_with_its_path(
    kind: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "policy"
    shutil.copytree(checkpoints["qwen2_5_vl"], folder)
    damage, reason = BAD_PROCESSORS[kind]
    damage(folder)
    with pytest.raises(ValueError, match=r"^\S+policy") as raised:
        PromptEncoder(str(folder))
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)


def test_text_only_tokenizer_is_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    shutil.copy(checkpoints["qwen2_5_vl"] / "tokenizer.json", tmp_path)
    settings = json.loads((checkpoints["qwen2_5_vl"] / "tokenizer_config.json").read_text())
    del settings["processor_class"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    with pytest.raises(ValueError, match="has no image processor; a Qwen-VL checkpoint is needed"):
        PromptEncoder(str(tmp_path))
