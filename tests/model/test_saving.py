"""What is written for others: the names, layout, precision and files of published checkpoints.

Broken on purpose, seen red: tied weights cast one by one.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

from tests.support.tiny import FAMILIES, build_checkpoint
from vlm_rl.model.families import family_of
from vlm_rl.model.policy import Policy, check_checkpoint
from vlm_rl.model.saving import published, save_model

every_family = pytest.mark.parametrize("family", FAMILIES)
HEAD = "lm_head.weight"


def tensors(folder: Path) -> dict[str, Tensor]:
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            found |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    return found


def described(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def declare(folder: Path, **values: Any) -> None:
    """Change config.json; a name that begins with text_ is of the text."""
    content = described(folder)
    for name, value in values.items():
        inner = name.removeprefix("text_")
        (content if inner == name else content["text_config"])[inner] = value
    (folder / "config.json").write_text(json.dumps(content))


def exact(before: dict[str, Tensor], after: dict[str, Tensor]) -> bool:
    return before.keys() == after.keys() and all(torch.equal(before[n], after[n]) for n in before)


@pytest.fixture
def copied(checkpoints: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoints["qwen3_vl"], tmp_path / "source"))


@pytest.mark.covers("checkpoint")
@every_family
def test_round_trip_keeps_names_and_bits_and_transformers_loads_it_whole(
    family: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    policy = Policy.from_pretrained(str(checkpoints[family]))
    policy.save(tmp_path / "a")
    again, info = AutoModelForImageTextToText.from_pretrained(
        tmp_path / "a", output_loading_info=True
    )
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert exact(policy.model.state_dict(), again.state_dict())
    Policy.from_pretrained(str(tmp_path / "a")).save(tmp_path / "b")
    first, second = tensors(tmp_path / "a"), tensors(tmp_path / "b")
    assert exact(first, second)
    assert HEAD not in first, "tied, so once"
    assert first.keys() == tensors(checkpoints[family]).keys()
    assert described(tmp_path / "a") == described(tmp_path / "b")


@every_family
def test_experts_lie_as_in_published_checkpoints_on_the_disk_and_in_the_stream(
    family: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """Qwen3-VL-MoE is published as [E, in, out] (vLLM: is_fused_checkpoint_transposed)."""
    policy = Policy.from_pretrained(str(checkpoints[family]))
    policy.save(tmp_path)
    saved, held = tensors(tmp_path), policy.model.state_dict()
    sent = dict(published(policy.model.config, held.items()))
    turned = {name for name in held if family == "qwen3_vl_moe" and ".experts." in name}
    assert bool(turned) == (family_of(policy.model.config).turned is not None)
    for name, weight in held.items():
        expected = weight.transpose(1, 2) if name in turned else weight
        assert torch.equal(sent[name], expected)
    assert all(torch.equal(saved[name], held[name].transpose(1, 2)) for name in turned)
    hidden = policy.model.config.get_text_config().hidden_size
    for name in turned:
        assert saved[name].shape[2 if "down" in name else 1] == hidden


def test_experts_that_are_square_are_refused(tmp_path: Path) -> None:
    folder = build_checkpoint("qwen3_vl_moe", tmp_path)
    declare(folder, text_moe_intermediate_size=32)
    with pytest.raises(ValueError, match="hidden_size=64 and moe_intermediate_size=32 are square"):
        check_checkpoint(str(folder))


@pytest.mark.parametrize("source", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("precision", ["source", "float32", "bfloat16"])
def test_precision_on_disk_is_the_sources_or_the_one_asked_for(
    source: torch.dtype, precision: Any, copied: Path, tmp_path: Path
) -> None:
    weights = {name: weight.to(source) for name, weight in tensors(copied).items()}
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    declare(copied, dtype=str(source).removeprefix("torch."))
    policy = Policy.from_pretrained(str(copied))
    policy.save(tmp_path / "saved", precision=precision)
    expected = source if precision == "source" else getattr(torch, precision)
    saved = tensors(tmp_path / "saved")
    assert saved.keys() == weights.keys(), "tied weights are one"
    assert all(torch.equal(saved[name], weights[name].to(expected)) for name in saved)
    said = described(tmp_path / "saved")
    assert {said["dtype"], said["text_config"]["dtype"]} == {str(expected).removeprefix("torch.")}
    assert {p.dtype for p in policy.parameters()} == {torch.float32}, "training goes on in it"
    assert Policy.from_pretrained(str(tmp_path / "saved")).source_dtype == expected


@every_family
def test_large_checkpoint_is_several_files_with_an_index(
    family: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    policy = Policy.from_pretrained(str(checkpoints[family]))
    save_model(policy.model, tmp_path, source=torch.float32, max_shard_size="300KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) > 2
    assert set(index["weight_map"].values()) == {file.name for file in files}
    assert index["weight_map"].keys() == tensors(tmp_path).keys()
    again = Policy.from_pretrained(str(tmp_path))
    assert exact(policy.model.state_dict(), again.model.state_dict())


def test_files_of_a_checkpoint_are_bounded(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = Policy.from_pretrained(str(checkpoints["qwen3_vl"]))
    given: dict[str, Any] = {}
    monkeypatch.setattr(policy.model, "save_pretrained", lambda *_, **how: given.update(how))
    policy.save(tmp_path)
    assert given["max_shard_size"] == "5GB"


@pytest.mark.parametrize("outer", [True, False])
@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize("has_head", [True, False])
def test_outer_tie_decides_and_a_file_that_contradicts_it_is_refused(
    outer: bool, text: bool, has_head: bool, copied: Path, tmp_path: Path
) -> None:
    weights = tensors(copied)
    if has_head:
        embeddings = next(name for name in weights if name.endswith("embed_tokens.weight"))
        weights[HEAD] = weights[embeddings] + 1
        save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    declare(copied, tie_word_embeddings=outer, text_tie_word_embeddings=text)
    if outer == has_head:
        with pytest.raises(ValueError, match=rf"{HEAD}.*set it to {str(not outer).lower()}"):
            Policy.from_pretrained(str(copied))
        return
    policy = Policy.from_pretrained(str(copied))
    embedded = policy.model.get_input_embeddings().weight
    assert (policy.model.lm_head.weight is embedded) == outer
    policy.save(tmp_path / "saved")
    assert exact(tensors(tmp_path / "saved"), weights)
    said = described(tmp_path / "saved")
    assert said["tie_word_embeddings"] == said["text_config"]["tie_word_embeddings"] == outer
    empty = Policy.from_pretrained(str(copied), empty=True).model
    assert (empty.lm_head.weight is empty.get_input_embeddings().weight) == outer


@every_family
def test_template_and_pixel_limits_survive(
    family: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    processor = AutoProcessor.from_pretrained(checkpoints[family])
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert again.chat_template == processor.chat_template
    assert again.image_processor.size == processor.image_processor.size
