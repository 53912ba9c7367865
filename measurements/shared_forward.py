"""Packed, group-shared forward against the plain padded one: time and peak memory of one update.

    OMP_NUM_THREADS=1 python -m measurements.shared_forward --image 256 --text 80 --completion 64

Runs forward and backward of the log-probabilities of one prompt with its group, each way in a
process of its own so that peaks do not mix. Memory is what the first update adds to the peak: of
the process on a CPU, of the allocator with `--device cuda`. `plain` is the oracle of the tests:
prompt and image once per completion, with whole logits.

Plain over packed, groups of 8, width 256, 4 layers, one CPU thread:

    visual tokens  question  longest completion  time  peak memory
               64        40                  32   4.6          4.6
              256        80                  64   6.1          5.9
              256        80                 256   3.7          3.7
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import vlm_rl  # noqa: F401  (makes torchvision importable)
from data_prep.scenes import CELL
from data_prep.tiny_policy import build_policy, build_processor, save
from tests.support.oracles import plain_logprobs
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.model.policy import Policy
from vlm_rl.records import Completion, Problem, Prompt, Rows

REPEATS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--image", type=int, default=256, help="visual tokens, a square number")
    parser.add_argument("--text", type=int, default=80, help="characters of the question")
    parser.add_argument("--completion", type=int, default=64, help="tokens of the longest answer")
    parser.add_argument("--group_size", type=int, default=8)
    parser.add_argument("--width", type=int, default=256, help="of language model and vision tower")
    parser.add_argument("--layers", type=int, default=4, help="of the language model")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--way", choices=["packed", "plain"], help="only this one, as JSON")
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(measure(arguments)))
        return
    measured = {way: measure_in_own_process(way) for way in ("packed", "plain")}
    for way, (seconds, mebibytes) in measured.items():
        print(f"{way}: {seconds:.2f} s, {mebibytes:.0f} MiB")
    (fast, small), (slow, large) = measured["packed"], measured["plain"]
    print(f"plain / packed: time {slow / fast:.1f}, peak memory {large / small:.1f}")


def measure_in_own_process(way: str) -> tuple[float, float]:
    command = [sys.executable, "-m", "measurements.shared_forward", *sys.argv[1:], "--way", way]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    seconds, mebibytes = json.loads(done.stdout.splitlines()[-1])
    return seconds, mebibytes


def measure(arguments: argparse.Namespace) -> tuple[float, float]:
    """Return seconds of CPU or GPU (best of `REPEATS`) and peak MiB of a forward and backward."""
    device = torch.device(arguments.device)
    policy, prompt = build(arguments)
    policy.to(device)
    rows = group(prompt, arguments)

    def update() -> None:
        policy.zero_grad(set_to_none=True)
        logprobs(policy, rows, arguments.way).sum().backward()

    before = peak_mebibytes(device)
    update()
    added = peak_mebibytes(device) - before
    return min(timed(update, device) for _ in range(REPEATS)), added


def build(arguments: argparse.Namespace) -> tuple[Policy, Prompt]:
    """Return an untrained policy, and a prompt with one image of the size asked for."""
    side = round(arguments.image**0.5)
    if side**2 != arguments.image:
        raise SystemExit(f"--image must be a square number, got {arguments.image}")
    processor = build_processor("qwen2_5_vl")
    model = build_policy(
        "qwen2_5_vl",
        processor.tokenizer,
        hidden=arguments.width,
        layers=arguments.layers,
        vision=arguments.width,
        seed=0,
    )
    with tempfile.TemporaryDirectory() as folder:
        save(model, processor, Path(folder))
        encoder = PromptEncoder(folder, max_pixels=(side * CELL) ** 2, max_prompt_tokens=1 << 20)
        noise = np.random.default_rng(0).integers(0, 256, (side * CELL, side * CELL, 3))
        image = Path(folder) / "image.png"
        Image.fromarray(noise.astype(np.uint8)).save(image)
        problem = Problem("p", "?" * arguments.text, "a", images=(image,))
        return Policy.from_pretrained(folder), encoder.encode(problem)


def group(prompt: Prompt, arguments: argparse.Namespace) -> Rows:
    """Return completions from the length asked for down to half of it."""
    generator = torch.Generator().manual_seed(0)
    longest, size = arguments.completion, arguments.group_size
    lengths = [longest - index * longest // (2 * size) for index in range(size)]
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
