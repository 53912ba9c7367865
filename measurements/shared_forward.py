r"""Packed, group-shared forward against the plain padded one: time and peak memory of one update.

    OMP_NUM_THREADS=1 python -m measurements.shared_forward --image 256 --text 80 --completion 64

Runs forward and backward of the log-probabilities of one prompt with its group. Seconds are of the
CPU or the GPU, both ways in turn in one process. Memory is what the first update adds to the peak,
each way in a process of its own: of the process on a CPU, of the allocator with `--device cuda`.
`plain` is the oracle of the tests: prompt and image once per completion, with whole logits.

Plain over packed, groups of 8, width 256, 4 layers, one CPU thread:

    visual tokens  question  longest completion  time  peak memory
               64        40                  32   4.6          4.6
              256        80                  64   6.1          5.9
              256        80                 256   3.7          3.7

Of a Qwen3.5 of 85 million parameters, as above, with all completions as long as the longest:

    ... --family qwen3_5 --width 768 --layers 8 --image 324 --text 74 --completion 100 \
        --shortest 100

packed 9.5 s and 1.5 GiB, plain 42 s and 5.2 GiB: 4.4 times, and 3.4 times the memory. The row has
3.4 times fewer tokens, and the image is encoded once and not eight times. Two thirds of packed are
products of matrices, 8 % the delta rule, whose chunks are computed for all completions together.
"""

import vlm_rl  # noqa: F401  (before anything that imports torchvision)

# isort: split
import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText, PreTrainedModel, ProcessorMixin, Qwen3_5Config

from data_prep.scenes import CELL
from data_prep.tiny_policy import build_policy, build_processor, save
from tests.support.oracles import plain_logprobs
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.model.policy import Policy
from vlm_rl.records import Completion, Problem, Prompt, Rows

REPEATS = 3
WAYS = ("packed", "plain")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--family", choices=MODELS, default="qwen2_5_vl")
    parser.add_argument("--image", type=int, default=256, help="visual tokens, a square number")
    parser.add_argument("--text", type=int, default=80, help="characters of the question")
    parser.add_argument("--completion", type=int, default=64, help="tokens of the longest answer")
    parser.add_argument("--shortest", type=int, help="the shortest answer; by default half of it")
    parser.add_argument("--group_size", type=int, default=8)
    parser.add_argument("--width", type=int, default=256, help="of language model and vision tower")
    parser.add_argument("--layers", type=int, default=4, help="of the language model")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--way", choices=WAYS, help="only this one, as JSON")
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(memory(arguments)))
        return
    # first: a process that is forked from a large one begins with the peak of that
    small, large = (memory_in_own_process(way) for way in WAYS)
    (fast, slow), ratio = times(arguments)
    print(f"packed: {fast:.2f} s, {small:.0f} MiB")
    print(f"plain: {slow:.2f} s, {large:.0f} MiB")
    print(f"plain / packed: time {ratio:.1f}, peak memory {large / small:.1f}")


def times(arguments: argparse.Namespace) -> tuple[list[float], float]:
    """Return the least seconds of packed and of plain, and the median of plain over packed."""
    device = torch.device(arguments.device)
    policy, rows = prepare(arguments)
    ways = [lambda way=way: update(policy, rows, way) for way in WAYS]
    for way in ways:
        way()
    pairs = [[timed(way, device) for way in ways] for _ in range(REPEATS)]
    return [min(seconds) for seconds in zip(*pairs, strict=True)], median(b / a for a, b in pairs)


def memory_in_own_process(way: str) -> float:
    command = [sys.executable, "-m", "measurements.shared_forward", *sys.argv[1:], "--way", way]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    mebibytes: float = json.loads(done.stdout.splitlines()[-1])
    return mebibytes


def memory(arguments: argparse.Namespace) -> float:
    """Return the MiB that a first forward and backward add to the peak."""
    device = torch.device(arguments.device)
    policy, rows = prepare(arguments)
    before = peak_mebibytes(device)
    update(policy, rows, arguments.way)
    return peak_mebibytes(device) - before


def prepare(arguments: argparse.Namespace) -> tuple[Policy, Rows]:
    policy, prompt = build(arguments)
    return policy.to(torch.device(arguments.device)), group(prompt, arguments)


def update(policy: Policy, rows: Rows, way: str) -> None:
    policy.zero_grad(set_to_none=True)
    logprobs(policy, rows, way).sum().backward()


def build(arguments: argparse.Namespace) -> tuple[Policy, Prompt]:
    """Return an untrained policy, and a prompt with one image of the size asked for."""
    side = round(arguments.image**0.5)
    if side**2 != arguments.image:
        raise SystemExit(f"--image must be a square number, got {arguments.image}")
    processor = build_processor("qwen2_5_vl" if arguments.family == "qwen2_5_vl" else "qwen3_vl")
    model = MODELS[arguments.family](processor, arguments.width, arguments.layers)
    print(f"{model.num_parameters() / 1e6:.1f} million parameters")
    with tempfile.TemporaryDirectory() as folder:
        save(model, processor, Path(folder))
        encoder = PromptEncoder(folder, max_pixels=(side * CELL) ** 2, max_prompt_tokens=1 << 20)
        noise = np.random.default_rng(0).integers(0, 256, (side * CELL, side * CELL, 3))
        image = Path(folder) / "image.png"
        Image.fromarray(noise.astype(np.uint8)).save(image)
        problem = Problem("p", "?" * arguments.text, "a", images=(image,))
        return Policy.from_pretrained(folder), encoder.encode(problem)


def qwen2_5_vl(processor: ProcessorMixin, width: int, layers: int) -> PreTrainedModel:
    """Return an untrained Qwen2.5-VL."""
    sizes = {"hidden": width, "layers": layers, "vision": width, "seed": 0}
    return build_policy("qwen2_5_vl", processor.tokenizer, **sizes)


def qwen3_5(processor: ProcessorMixin, width: int, layers: int) -> PreTrainedModel:
    """Return an untrained Qwen3.5 with the proportions of the one of 9 billion parameters.

    Those are the defaults of `Qwen3_5Config`: heads of 256 in attention and of 128 in recurrences,
    half as wide in keys, three recurrences before each attention.
    """
    theirs = placeholder_ids(processor)
    text = {
        "vocab_size": 448,
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 256,
        "num_key_value_heads": max(1, width // 1024),
        "linear_num_key_heads": width // 256,
        "linear_num_value_heads": width // 128,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e7,
            "mrope_section": [11, 11, 10],
            "mrope_interleaved": True,
            "partial_rotary_factor": 0.25,
        },
    }
    vision = {
        "depth": 2,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_heads": width // 64,
        "out_hidden_size": width,
        "patch_size": CELL // 2,
        "num_position_embeddings": 2304,
    }
    config = Qwen3_5Config(
        text_config=text, vision_config=vision, tie_word_embeddings=True, **theirs
    )
    torch.manual_seed(0)
    return AutoModelForImageTextToText.from_config(config, dtype=torch.float32)


def placeholder_ids(processor: ProcessorMixin) -> dict[str, int]:
    """Return the ids of the placeholders as a configuration names them."""
    names = ("image_token", "video_token", "vision_start_token", "vision_end_token")
    tokens = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    ids = processor.tokenizer.convert_tokens_to_ids(list(tokens))
    return {f"{name}_id": token_id for name, token_id in zip(names, ids, strict=True)}


MODELS = {"qwen2_5_vl": qwen2_5_vl, "qwen3_5": qwen3_5}


def group(prompt: Prompt, arguments: argparse.Namespace) -> Rows:
    """Return completions from the longest down, nearly, to the shortest."""
    generator = torch.Generator().manual_seed(0)
    longest, size = arguments.completion, arguments.group_size
    shortest = arguments.shortest or longest / 2
    lengths = [longest - int(index * (longest - shortest) / size) for index in range(size)]
    completions = [
        Completion(torch.randint(300, (n,), generator=generator), torch.zeros(n), "length", "")
        for n in lengths
    ]
    return Rows.build([prompt], [completions], torch.ones(1, size, dtype=torch.bool))


def logprobs(policy: Policy, rows: Rows, way: str) -> Tensor:
    if way == "packed":
        return policy.logprobs(rows, temperature=1.0).logprobs
    return plain_logprobs(policy.model, rows, banned_ids=policy.banned_ids)[0]


def timed(update: Callable[[], None], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
        start = time.perf_counter()
        update()
        torch.cuda.synchronize()
        return time.perf_counter() - start
    start = time.process_time()  # other load disturbs it less than wall-clock time
    update()
    return time.process_time() - start


def peak_mebibytes(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


if __name__ == "__main__":
    main()
