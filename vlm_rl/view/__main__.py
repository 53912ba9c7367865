"""Look at runs in a browser, also while they run:

    python -m vlm_rl.view runs/quickstart [runs/other ...]

RUN is the folder of a run or of an evaluation. The page is served on this machine only. To read it
from another one, forward the port: `ssh -L 8765:127.0.0.1:8765 HOST`. `--export FILE` writes one
page into a file that needs no server, for a colleague, and ends: `--page` says which, by its path
in the address bar.
"""

import argparse
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import requests
import uvicorn

from vlm_rl.config import one_line_errors
from vlm_rl.disk.files import write_text
from vlm_rl.run.endings import one_line_endings
from vlm_rl.show.screen import say
from vlm_rl.view.app import build
from vlm_rl.view.folder import named
from vlm_rl.view.index import RolloutIndex
from vlm_rl.view.pages import Viewed

HOST = "127.0.0.1"
_PAUSE_S = 2.0


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until the process is told to end, or export one page."""
    with one_line_endings("vlm_rl.view") as ending:
        with one_line_errors("vlm_rl.view"):
            options = _parser().parse_args(argv)
            viewed = open_folders(options.runs)
            listening = listen(options.port)
        ending.left = "the runs are as they were"
        ended = threading.Event()
        with serving(viewed, listening) as address:
            if options.export:
                for one in viewed.values():
                    one.index.refresh()
                with one_line_errors("vlm_rl.view"):
                    export(address, options.page, options.export)
                say(f"page: {options.export}")
                return
            say(f"view of {', '.join(viewed)} at {address} (Ctrl-C ends it)")
            while not ended.wait(_PAUSE_S):
                for one in viewed.values():
                    one.index.refresh()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "vlm-rl view",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="the folder of a run")
    parser.add_argument("--port", type=int, default=8765, help="0 for any free one [8765]")
    parser.add_argument("--export", type=Path, metavar="FILE", help="write one page and end")
    parser.add_argument("--page", default="/", help="the path of that page [/]")
    return parser


def open_folders(paths: Sequence[Path]) -> dict[str, Viewed]:
    """Return the folders by name, each with its index. Raises ValueError naming a wrong one."""
    return {name: Viewed(one, RolloutIndex(one)) for name, one in named([*paths]).items()}


def listen(port: int) -> socket.socket:
    """Return a socket of this machine alone. Raises ValueError if the port is taken."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
    except (OSError, OverflowError) as error:
        listening.close()
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"--port {port}: {reason}; give another one, or 0") from error
    return listening


@contextmanager
def serving(viewed: dict[str, Viewed], listening: socket.socket) -> Iterator[str]:
    """Serve in a thread; yield the address."""
    server = uvicorn.Server(uvicorn.Config(build(viewed), log_level="warning", lifespan="off"))
    listening.listen()  # a browser that comes before the thread is up waits
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"http://{HOST}:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()
        for one in viewed.values():
            one.index.close()


def export(address: str, page: str, target: Path) -> None:
    """Write a page into one file. Raises ValueError if there is no such page."""
    parts = urlsplit(page)
    query = f"{parts.query}&export=1" if parts.query else "export=1"
    answer = requests.get(f"{address}/{parts.path.lstrip('/')}?{query}", allow_redirects=False)
    if not answer.ok:
        raise ValueError(
            f"--page {page} is not there (status {answer.status_code}); copy the path from the "
            "address bar of the browser, such as '/r/RUN/problems'"
        )
    write_text(target, answer.text)


if __name__ == "__main__":
    main()
