"""The tiny policies: they load offline like any Qwen-VL, and the shipped one is half trained."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

import vlm_rl  # noqa: F401
from data_prep import supervise
from data_prep.measure import blinded, measure, style_of
from data_prep.scenes import FAMILIES, STYLES, completion
from data_prep.supervise import Lesson, completion_loss, encode, warm_start
from data_prep.synthetic import generate
from data_prep.tiny_policy import (
    SPECIAL_TOKENS,
    build_tokenizer,
    build_untrained,
    build_warm_start,
)
from tests.support.places import TINY_POLICY

SHIPPED = TINY_POLICY
NUM_PARAMETERS = 1_061_664


def num_parameters(policy):
    return sum(parameter.numel() for parameter in policy.parameters())


@pytest.fixture(scope="module")
def shipped():
    policy = AutoModelForImageTextToText.from_pretrained(SHIPPED, local_files_only=True)
    return policy, AutoProcessor.from_pretrained(SHIPPED, local_files_only=True)


def test_shipped_policy_is_a_small_qwen2_5_vl(shipped):
    policy, processor = shipped
    assert type(policy).__name__ == "Qwen2_5_VLForConditionalGeneration"
    assert type(processor.tokenizer).__name__ == "Qwen2Tokenizer"
    assert num_parameters(policy) == NUM_PARAMETERS
    assert policy.config.text_config.head_dim % 32 == 0
    assert policy.dtype == torch.float32
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 8e6


def test_shipped_folder_asks_for_no_sampling(shipped):
    policy, _ = shipped
    asked = policy.generation_config.to_diff_dict().keys() - {"transformers_version"}
    assert asked == {"bos_token_id", "eos_token_id", "pad_token_id"}


def test_shipped_tokenizer_is_the_one_the_code_builds(shipped):
    _, processor = shipped
    built = build_tokenizer()
    assert processor.tokenizer.get_vocab() == built.get_vocab()
    text = "Count the red cells.<|im_end|>"
    assert processor.tokenizer(text).input_ids == built(text).input_ids


def test_special_tokens_are_single_ids_and_any_text_survives(shipped):
    tokenizer = shipped[1].tokenizer
    ids = [tokenizer(token).input_ids for token in SPECIAL_TOKENS]
    assert [len(one) for one in ids] == [1] * len(SPECIAL_TOKENS)
    assert len({one[0] for one in ids}) == len(SPECIAL_TOKENS)
    text = "Wie groß ist ∠ABC?\n\t30° 四边形 \\boxed{12}"
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_numbers_are_written_digit_by_digit_and_prompts_are_short(shipped):
    tokenizer = shipped[1].tokenizer
    assert len(tokenizer("1234").input_ids) == 4
    for problem in generate("train", 30, seed=0):
        assert len(tokenizer(problem.question).input_ids) <= 10
        lengths = [len(tokenizer(completion(problem.scene, s)).input_ids) for s in STYLES]
        assert lengths == sorted(lengths, reverse=True)
        assert lengths[0] < 48


def test_prompt_has_one_placeholder_per_merged_patch_and_no_system_turn(shipped):
    _, processor = shipped
    problems = list(generate("val", 3, seed=0))
    inputs = encode(processor, problems, [""] * 3, padding_side="left")
    placeholder = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    merged = [p.image.width * p.image.height // 256 for p in problems]
    assert (inputs["input_ids"] == placeholder).sum(-1).tolist() == merged
    assert (inputs["image_grid_thw"].prod(-1) // 4).tolist() == merged
    text = processor.tokenizer.decode(inputs["input_ids"][0])
    assert "system" not in text
    assert text.endswith("<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_untrained_policy_loads_and_is_a_function_of_its_seed(family, tmp_path):
    folders = [build_untrained(family, tmp_path / str(i), seed=i // 2) for i in range(3)]
    same, again, other = (load_file(folder / "model.safetensors") for folder in folders)
    assert all(torch.equal(same[name], again[name]) for name in same)
    assert not all(torch.equal(same[name], other[name]) for name in same)
    policy = AutoModelForImageTextToText.from_pretrained(folders[0], local_files_only=True)
    processor = AutoProcessor.from_pretrained(folders[0], local_files_only=True)
    assert policy.config.model_type == family
    assert 150_000 < num_parameters(policy) < 450_000
    inputs = encode(processor, list(generate("val", 3, seed=0)), [""] * 3, padding_side="left")
    assert torch.isfinite(policy(**inputs).logits).all()


def test_building_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    build_warm_start(seed=3)
    assert torch.equal(torch.get_rng_state(), before)


def test_completion_loss_matches_one_completion_at_a_time(shipped):
    policy, processor = shipped
    problems = list(generate("val", 3, seed=0))
    texts = [completion(p.scene, s) for p, s in zip(problems, STYLES, strict=True)]
    total = count = 0.0
    for problem, text in zip(problems, texts, strict=True):
        ids = processor.tokenizer(text + "<|im_end|>").input_ids
        inputs = encode(processor, [problem], [text + "<|im_end|>"], padding_side="right")
        with torch.no_grad():
            logits = policy(**inputs).logits[0]
        logprobs = logits.log_softmax(-1)[-len(ids) - 1 : -1]
        total -= float(logprobs[torch.arange(len(ids)), torch.tensor(ids)].sum())
        count += len(ids)
    batch = completion_loss(policy, processor, problems, texts).detach()
    assert float(batch) == pytest.approx(total / count, abs=1e-5)


def test_supervised_steps_lower_the_loss(monkeypatch):
    monkeypatch.setattr(supervise, "BATCH", 4)
    policy, processor = build_warm_start(seed=0)
    lesson = Lesson(5, 3, (5, 3, 2), 2e-3, 2e-4, 1, seed=0)
    losses = list(warm_start(policy, processor, [lesson]))
    assert losses[-1] < losses[0] - 1


def test_style_is_read_from_the_text():
    for problem in generate("train", 36, seed=5):
        assert [style_of(completion(problem.scene, style)) for style in STYLES] == list(STYLES)


def test_shipped_policy_answers_some_but_not_most_and_needs_the_image(shipped):
    policy, processor = shipped
    problems = list(generate("val", 72, seed=0))
    torch.manual_seed(0)
    outcomes = measure(policy, processor, problems)
    assert 0.2 < sum(o.right for o in outcomes) / len(outcomes) < 0.65
    for family in FAMILIES:
        assert any(o.right for o in outcomes if o.scene.family == family)
    blind = measure(policy, processor, [blinded(problem) for problem in problems])
    assert sum(o.right for o in blind) / len(blind) < 0.2
