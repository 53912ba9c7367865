"""Images on the web, from a real server on this machine: fetched if allowed, and named if not.

Broken on purpose, each seen red: fetched without being allowed; every row fetched anew; no limit.
"""

import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vlm_rl.data import downloads
from vlm_rl.data.images import ImageStore
from vlm_rl.data.rows import SourceRows, read_problems


def _png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 48), "red").save(file, "PNG")
    return file.getvalue()


PICTURE = _png()
PAGES = {"/p.png": PICTURE, "/page.png": b"<html>not here</html>", "/large.png": PICTURE * 2}


class Server(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Server)
        self.server.asked.append(self.path)
        content = PAGES.get(self.path)
        self.send_response(404 if content is None else 200)
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def read(folder: Path, *urls: str, allow: bool = True) -> SourceRows:
    rows = [{"problem": f"{n}?", "answer": "3", "images": [url]} for n, url in enumerate(urls)]
    file = folder / "rows.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return read_problems(str(file), ImageStore(allow_download=allow), owners={})


def test_image_on_the_web_is_read_if_it_may_be(server: Server, tmp_path: Path) -> None:
    url = f"{server.url}/p.png"
    found = read(tmp_path, url, url)
    assert [problem.images for problem in found.problems] == [(PICTURE,)] * 2
    assert server.asked == ["/p.png"], "once for both"
    refused = read(tmp_path, url, allow=False)
    assert server.asked == ["/p.png"]
    [row] = refused.skipped
    assert row.reason == "no image file"
    assert "data.allow_download=true fetches it, or download it" in row.message


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("lost.png", "404 Client Error"),
        ("page.png", "unknown format"),
        ("large.png", f"above {len(PICTURE) + 1} bytes"),
    ],
)
def test_what_is_no_image_there_is_a_bad_row(
    name: str, reason: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "MOST_BYTES", len(PICTURE) + 1)
    [row] = read(tmp_path, f"{server.url}/{name}").skipped
    assert reason in row.message


def test_server_that_is_not_there_is_a_bad_row(server: Server, tmp_path: Path) -> None:
    server.server_close()
    [row] = read(tmp_path, f"{server.url}/p.png").skipped
    assert row.reason == "no image file"
    assert "Connection" in row.message
