"""The start of a run over many rows: CPU seconds by part, and memory.

    OMP_NUM_THREADS=1 python -m measurements.start --rows 100000 300000 --form paths bytes

Rows of one question and one image each, all images different, are made in a temporary folder: as
JSONL with paths, or as parquet with the bytes in one row group. `whole` is what a run does before
its first step, in a process of its own: set the data up, check the golds, encode the first batch.
CPU seconds include the processes that check golds. The parts are measured in another process, where
each is called by itself. Memory is what the whole adds to a process that has imported everything,
and its peak. Nothing is decoded but the images of the first batch.

One core of a busy machine, images of 128 x 128, the tiny policy's tokenizer:

       rows   form   whole  rows and images  lengths  contents  golds  MiB added  peak MiB
    100,000  paths  20.1 s              8.3      0.4       0.6   11.0        210       862
    300,000  paths  65.6 s             27.2      1.2       1.9   36.8        541     1,194

and on another day, both beside other work:

    100,000  paths  32.1 s             19.7      0.6       0.8   15.2        218       838
  1,000,000  paths 411.5 s            273.8      5.4       8.4  156.0      1,901     2,521
"""

import argparse
import gc
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from PIL import Image

import vlm_rl  # noqa: F401  (makes torchvision importable)
from tests.support.places import TINY_POLICY
from vlm_rl.data.content import Contents
from vlm_rl.data.datamodule import IMAGES_IN_MEMORY, DataSource, ProblemData
from vlm_rl.data.images import ImageStore
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.data.rows import read_problems
from vlm_rl.rewards import Accuracy
from vlm_rl.show.screen import Screen, Table

PARTS = ("rows and images", "lengths", "contents", "golds")
DRAWN = 20
"""Different pictures; each file has some bytes of its own behind one of them."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 30_000])
    parser.add_argument("--form", nargs="+", choices=["paths", "bytes"], default=["paths", "bytes"])
    parser.add_argument("--side", type=int, default=128, help="of an image, pixels")
    parser.add_argument("--file", help="only this one, as JSON")
    parser.add_argument("--whole", action="store_true")
    arguments = parser.parse_args()
    if arguments.file:
        measured = whole(arguments.file) if arguments.whole else parts(arguments.file)
        print(json.dumps(measured))
        return
    table = Table("rows", "form", "whole, CPU s", *PARTS, "ms a row", "MiB added", "peak MiB")
    for form in arguments.form:
        for rows in arguments.rows:
            with tempfile.TemporaryDirectory() as folder:
                file = write(Path(folder), rows, form, arguments.side)
                start, by_part = in_own_process(file, "--whole"), in_own_process(file)
            seconds = start["CPU s"]
            cells = [f"{by_part[part]:.1f}" for part in PARTS]
            memory = [f"{start[name]:.0f}" for name in ("added", "peak")]
            per_row = f"{1000 * seconds / rows:.3f}"
            table.add_row(f"{rows:,}", form, f"{seconds:.1f}", *cells, per_row, *memory)
    Screen(width=140).print(table)


def write(folder: Path, rows: int, form: str, side: int) -> Path:
    """Write `rows` rows; return their file."""
    if form == "bytes":
        path = folder / "rows.parquet"
        images = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        kinds = {"problem": pa.string(), "answer": pa.string(), "images": pa.list_(images)}
        table = pa.Table.from_pylist(list(_rows(rows, side)), pa.schema(kinds.items()))
        pa.parquet.write_table(table, path, row_group_size=rows)
        return path
    (folder / "images").mkdir()
    path = folder / "rows.jsonl"
    with path.open("w") as lines:
        for number, row in enumerate(_rows(rows, side)):
            name = f"images/{number}.jpg"
            (folder / name).write_bytes(row["images"][0]["bytes"])
            lines.write(json.dumps(row | {"images": [name]}) + "\n")
    return path


def _rows(rows: int, side: int) -> Iterator[dict]:
    noise = np.random.default_rng(0).integers(0, 256, (DRAWN, side // 4, side // 4, 3), np.uint8)
    drawn = []
    for number, pixels in enumerate(noise):
        file = io.BytesIO()
        image = Image.fromarray(pixels).resize((side, side))
        image.save(file, "PNG" if number % 4 == 0 else "JPEG")
        drawn.append(file.getvalue())
    for number in range(rows):
        yield {
            "problem": f"<image>AB is {number} cm long and CD is half of it. How long is CD?",
            "answer": str(number / 2),
            "images": [{"bytes": drawn[number % DRAWN] + number.to_bytes(4, "big"), "path": None}],
        }


def in_own_process(file: Path, *options: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "measurements.start", "--file", str(file), *options],
        capture_output=True,
        text=True,
        check=True,
    )
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def whole(file: str) -> dict[str, float]:
    encoder, accuracy = PromptEncoder(str(TINY_POLICY)), Accuracy()
    gc.collect()
    before, began = _peak_mib(), _cpu_s()
    data = ProblemData([DataSource(file)], [], encoder, prompts_per_step=16)
    data.setup()
    accuracy.unusable(data.train_set)
    next(iter(data.train_dataloader()))
    accuracy.close()
    seconds, peak = _cpu_s() - began, _peak_mib()
    return {"CPU s": seconds, "added": peak - before, "peak": peak}


def parts(file: str) -> dict[str, float]:
    encoder, accuracy = PromptEncoder(str(TINY_POLICY)), Accuracy()
    images = ImageStore(IMAGES_IN_MEMORY)
    seconds: dict[str, float] = {}

    def timed(part: str, run: Callable[[], object]) -> None:
        began = _cpu_s()
        run()
        seconds[part] = _cpu_s() - began

    read: list = []
    timed(PARTS[0], lambda: read.append(read_problems(file, images, owners={})))
    problems = read[0].problems
    timed(PARTS[1], lambda: list(encoder.unfit(problems, images.size_of)))
    timed(PARTS[2], lambda: Contents.of(problems, images))
    timed(PARTS[3], lambda: (accuracy.unusable(problems), accuracy.close()))
    return seconds


def _cpu_s() -> float:
    """Return the CPU time of this process and of the checkers that have ended."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def _peak_mib() -> float:
    """Return the peak of this program; that of getrusage is at least the parent's."""
    (line,) = re.findall(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return int(line) / 1024


if __name__ == "__main__":
    main()
