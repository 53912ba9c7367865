"""What the server refuses: other names for it, other files, other machines; and odd requests.

Broken on purpose, each seen red: no check of the Host header; `file` without `is_relative_to`; the
pattern of images left out; reports not looked up in the list; binding to 0.0.0.0.
"""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.support.viewed_runs import PICTURE, served, small_run
from vlm_rl.view.__main__ import HOST, listen, main

SECRET = "the key of somebody"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a run, a secret beside it, and links that lead out."""
    root = tmp_path_factory.mktemp("served")
    folder = small_run(root / "run")
    for name in ("secret.jpg", "secret.md", "secret.png", "samples.jsonl"):
        (root / name).write_text(SECRET)
    (folder / "images" / f"{'a' * 32}.jpg").symlink_to(root / "secret.jpg")
    (folder / "report.md").symlink_to(root / "secret.md")
    (folder / "plots").mkdir()
    (folder / "plots" / "step_2").symlink_to(root)
    (root / "length_fairness.png").write_text(SECRET)
    (folder / "length_fairness.json").symlink_to(root / "secret.md")
    (folder / "other").mkdir()
    (folder / "other" / "samples.jsonl").symlink_to(root / "samples.jsonl")
    (folder / "rollouts" / "step_000003.jsonl").symlink_to(root / "samples.jsonl")
    return root


@pytest.fixture(scope="module")
def address(root: Path) -> Iterator[str]:
    with served(root / "run") as where:
        yield where


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.", ""])
def test_other_names_of_this_machine_are_refused(address: str, host: str) -> None:
    assert requests.get(address, headers={"Host": host}).status_code == 400


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "localhost:8765"])
def test_own_names_are_answered(address: str, host: str) -> None:
    assert requests.get(address, headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/r/run/image/../../secret.jpg",
        "/r/run/image/..%2f..%2fsecret.jpg",
        "/r/run/image/%2e%2e%2f%2e%2e%2fsecret.jpg",
        f"/r/run/image/{'a' * 32}.jpg",
        "/r/run/report/report.md",
        "/r/run/report/..%2fsecret.md",
        "/r/run/figure/..%2fsecret.png",
        "/r/run/figure/plots/step_2/length_fairness.png",
        "/r/run/samples/other/samples.jsonl",
        "/r/run/samples/..%2fsamples.jsonl",
        "/r/run/figure/%2fetc%2fpasswd",
        "/static/..%2f__main__.py",
        "/static/%2e%2e/app.py",
        "/r/other/problems",
        "/r/run/length",
        "/r/run/completions",
        "/r/run/evaluations",
        "/",
    ],
)
def test_no_file_outside_the_folder_is_read(address: str, path: str) -> None:
    session = requests.Session()
    request = session.prepare_request(requests.Request("GET", address))
    request.url = address + path  # as it is: requests would resolve the dots
    answer = session.send(request)
    assert SECRET not in answer.text
    assert "build(viewed" not in answer.text
    assert answer.status_code in (200, 404)


def test_images_and_pages_say_what_a_browser_may_do_with_them(address: str) -> None:
    image = requests.get(f"{address}/r/run/image/{PICTURE}")
    assert image.headers["content-type"] == "image/jpeg"
    for answer in (image, requests.get(address), requests.get(f"{address}/r/none/problems")):
        assert "default-src 'none'; script-src 'self'" in answer.headers["content-security-policy"]
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "query",
    [
        "problems?page=-1",
        "problems?page=x&order=visits;drop",
        "problems?page=99999999999999999",
        "completions?step=%00&shortest=1e9&longest=zwei",
        "completions?before=999999999999999999",
        "completions?verdict=unknown&source=%ff",
        "length?step=77",
    ],
)
def test_odd_queries_are_answered(address: str, query: str) -> None:
    assert requests.get(f"{address}/r/run/{query}").status_code == 200


@pytest.mark.parametrize("path", ["problem?uid=none", "completion/1/1", "report/none.md"])
def test_what_is_not_there_is_said_in_a_page(address: str, path: str) -> None:
    answer = requests.get(f"{address}/r/run/{path}")
    assert answer.status_code == 404
    assert "<h1>404" in answer.text


def test_socket_is_of_this_machine_alone() -> None:
    with listen(0) as listening:
        assert listening.getsockname()[0] == HOST == "127.0.0.1"


def test_wrong_arguments_are_one_line(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*argv: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(argv)
        assert ended.value.code
        [line] = capsys.readouterr().err.strip().splitlines()
        return line

    assert "is not a folder" in said(str(tmp_path / "none"))
    assert "holds neither metrics.csv nor a report" in said(str(tmp_path))
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert f"--port {port}: Address already in use" in said(str(root / "run"), "--port", port)
    assert "--port 70000" in said(str(root / "run"), "--port", "70000")
    target = str(tmp_path / "page.html")
    wrong = said(str(root / "run"), "--port", "0", "--export", target, "--page", "/none")
    assert "--page /none is not there (status 404)" in wrong
    assert not Path(target).exists()


def test_curves_of_a_damaged_file_are_those_of_its_whole_rows(tmp_path: Path) -> None:
    folder = small_run(tmp_path / "run")
    (folder / "metrics.csv").write_text("step,a\n1,2\n2,nan\n3,inf\n4,5\n5,")
    with served(folder) as where:
        answer = json.loads(requests.get(f"{where}/curves.json?m=a&m=none").text)
    assert answer == {"a": {"run": [[1, 4], [2, 5]]}, "none": {}}
