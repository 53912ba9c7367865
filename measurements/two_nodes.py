"""Train on two "nodes" that one Linux machine imitates: two network namespaces and a cable.

    sudo -E env "PATH=$PATH" python -m measurements.two_nodes --output runs/two_nodes

Each namespace has a network of its own, so its `torchrun` reaches the other only through the cable,
like real machines. They share the file system, as nodes must. Trains the quickstart's policy for
five steps under `--strategy`, once on both nodes and once with as many ranks on one node, and
compares both: exit statuses, steps, how often each step is printed, metrics and, bit for bit, the
weights of `hf/`. The last line says `equal` or how many differences there are, and the exit status
is then 1. Needs root and `ip` (iproute2). Namespaces and processes are removed at the end, also
after Ctrl-C.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from safetensors.torch import load_file
from torch import equal

from data_prep import synthetic
from vlm_rl.run import folder as run_folder
from vlm_rl.run.metrics_csv import read_metrics

STEPS = 5
CABLE = "cable"
ADDRESSES = ("10.77.0.1", "10.77.0.2")
PORT = 29577
SETTINGS = (
    "--config=configs/quickstart.yaml",
    f"--steps={STEPS}",
    "--data.prompts_per_step=4",
    "--data.val_problems=8",
    "--group_size=4",
    "--sampling.max_completion_tokens=16",
    f"--checkpoint.every_n_steps={STEPS}",
    f"--validation.every_n_steps={STEPS}",
    "--logging.wandb=off",
)


@contextmanager
def two_nodes() -> Iterator[tuple[str, str]]:
    """Yield the names of two network namespaces that can reach only each other.

    Whatever runs in them is killed at the end.
    """
    names = (f"vlm_rl_{os.getpid()}_0", f"vlm_rl_{os.getpid()}_1")
    try:
        for name in names:
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        # created inside the namespaces, so that the machine's own network never has it
        first = ("link", "add", CABLE, "netns", names[0], "type", "veth")
        _ip(*first, "peer", "name", CABLE, "netns", names[1])
        for name, address in zip(names, ADDRESSES, strict=True):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", CABLE)
            _ip("-n", name, "link", "set", CABLE, "up")
        yield names
    finally:
        for name in names:
            _kill_all(name)
            subprocess.run(["ip", "netns", "delete", name], stderr=subprocess.DEVNULL, check=False)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def _kill_all(name: str) -> None:
    """Kill by namespace, since torchrun's workers are not in its process group."""
    pids = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True)
    for process in pids.stdout.split():
        with suppress(ProcessLookupError):
            os.kill(int(process), signal.SIGKILL)


def torchrun(*launch: str, settings: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", *launch, "-m", "vlm_rl.fit", *settings]


def on_two_nodes(settings: Sequence[str], per_node: int, output: Path) -> list[int]:
    """Run both nodes to their end. Returns their exit statuses."""
    with two_nodes() as names:
        started = []
        for number, name in enumerate(names):
            command = torchrun(
                "--nnodes=2",
                f"--node_rank={number}",
                f"--nproc_per_node={per_node}",
                f"--master_addr={ADDRESSES[0]}",
                f"--master_port={PORT}",
                settings=settings,
            )
            with (output / f"node_{number}.log").open("w") as log:
                started.append(_start(["ip", "netns", "exec", name, *command], log))
        while all(process.poll() in (None, 0) for process in started):
            if all(process.poll() == 0 for process in started):
                break
            time.sleep(0.2)
        else:
            time.sleep(10)  # for the other node to notice
        return [-1 if (status := process.poll()) is None else status for process in started]


def _start(command: Sequence[str], log: IO[str]) -> subprocess.Popen[bytes]:
    # gloo resolves the machine's name, whose address the namespaces do not have
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": CABLE}
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)


def on_one_node(settings: Sequence[str], processes: int, output: Path) -> int:
    command = torchrun("--standalone", f"--nproc_per_node={processes}", settings=settings)
    with (output / "one_node.log").open("w") as log:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run(
            command, stdout=log, stderr=subprocess.STDOUT, env=environment, check=False
        ).returncode


def differences(output: Path) -> Iterator[str]:
    """Yield what differs between the two runs in `output`."""
    two, one = output / "two", output / "one"
    for run_dir in (two, one):
        steps = [row["step"] for row in _trained(run_dir)]
        if steps != list(range(1, STEPS + 1)):
            yield f"{run_dir.name} has trained the steps {steps}"
    printed = "".join((output / f"node_{number}.log").read_text() for number in range(2))
    for step in range(1, STEPS + 1):
        if (times := printed.count(f"step {step}/{STEPS} ")) != 1:
            yield f"step {step} is printed {times} times"
    for ours, theirs in zip(_trained(two), _trained(one), strict=False):
        for name in sorted(ours.keys() | theirs.keys()):
            if not name.startswith("time/") and ours.get(name) != theirs.get(name):
                yield f"{name} of step {ours['step']:.0f}: {ours.get(name)}, {theirs.get(name)}"
    ours, theirs = (
        load_file(run_folder.step_folder(run_dir, STEPS) / "hf" / "model.safetensors")
        for run_dir in (two, one)
    )
    for name in sorted(ours.keys() | theirs.keys()):
        if name not in ours or name not in theirs or not equal(ours[name], theirs[name]):
            yield f"weight {name}"


def _trained(run_dir: Path) -> list[dict[str, float]]:
    return [row for row in read_metrics(run_dir / "metrics.csv") if "policy/loss" in row]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write into, replaced")
    parser.add_argument("--processes_per_node", type=int, default=1)
    parser.add_argument("--strategy", default="fsdp2", help="of vlm_rl.fit")
    arguments = parser.parse_args()
    output: Path = arguments.output
    if os.geteuid() != 0 or shutil.which("ip") is None:
        raise SystemExit("two_nodes: needs root and `ip` (iproute2) to make network namespaces")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    shutil.rmtree(output, ignore_errors=True)
    for split, number in (("train", 64), ("val", 16)):
        synthetic.write(output / "data", split, number, seed=0, difficulty=(2, 3, 4))
    data = [f'--data.{s}=[{{"path": "{output}/data/{s}.jsonl"}}]' for s in ("train", "val")]
    settings = [*SETTINGS, *data, f"--trainer.strategy={arguments.strategy}"]
    per_node: int = arguments.processes_per_node
    own = [f"--run_dir={output}/two", "--trainer.num_nodes=2", f"--trainer.devices={per_node}"]
    statuses = on_two_nodes([*settings, *own], per_node, output)
    if statuses != [0, 0]:
        raise SystemExit(f"two_nodes: the nodes ended with {statuses}; see {output}/node_*.log")
    own = [f"--run_dir={output}/one", f"--trainer.devices={2 * per_node}"]
    status = on_one_node([*settings, *own], 2 * per_node, output)
    if status:
        raise SystemExit(f"two_nodes: one node ended with {status}; see {output}/one_node.log")
    different = list(differences(output))
    print(*different[:20], sep="\n", end="\n" if different else "")
    verdict = f"{len(different)} differences" if different else "equal"
    print(
        f"two_nodes: 2 nodes x {per_node} {arguments.strategy} against 1 node x {2 * per_node}, "
        f"{STEPS} steps, weights and metrics: {verdict}"
    )
    raise SystemExit(bool(different))


if __name__ == "__main__":
    main()
