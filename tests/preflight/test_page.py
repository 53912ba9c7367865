"""The screen and the page of preflight, and what `fit` says of it at its start.

Mutations tried: no section looked at after the first; no status 2; no escapes in the template.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.places import REPOSITORY
from tests.support.planted import Bench, sound_data
from vlm_rl.fit import choose_threads, fit, quieten
from vlm_rl.preflight.__main__ import main
from vlm_rl.preflight.inspections import INSPECTIONS
from vlm_rl.preflight.start import STAGES


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    choose_threads()
    quieten()
    return sound_data(tmp_path_factory.mktemp("sound"))


@pytest.fixture
def bench(data: Path, tmp_path: Path) -> Bench:
    return Bench(data, tmp_path)


def test_sound_run_ends_well_and_leaves_one_page(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    main(bench.argv([]))
    *lines, counts, last = capsys.readouterr().out.splitlines()
    assert all(line.startswith("ok ") for line in lines)
    assert re.fullmatch(r"0 stop, 0 warning, \d+ ok; 0 not looked at", counts)
    assert last.endswith(f"{bench.folder / 'run.preflight.html'}")
    assert [path.name for path in bench.folder.iterdir()] == ["run.preflight.html"]


def test_stop_ends_with_status_2_and_says_what_to_do(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    page = bench.folder / "pages/own.html"
    with pytest.raises(SystemExit) as end:
        main(bench.argv([*bench.first_row(answer="many"), f"--page={page}"]))
    assert end.value.code == 2
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("stop")]
    assert "cannot be read as a number" in line
    assert "--data.on_bad_row skip" in line
    assert "mend them or name their answer_type" in page.read_text()


def test_what_cannot_be_looked_at_is_named(
    bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bench.folder)
    with pytest.raises(SystemExit):
        main(bench.argv(["--optimizer.lr=many", "--optimiser.lr=1"]))
    shown = capsys.readouterr().out
    assert len(re.findall("^stop +configuration", shown, re.MULTILINE)) == 2
    assert "not looked at without configuration: consistency, run folder" in shown
    assert Path("preflight.html").exists()


def test_page_has_all_in_it_and_strings_stay_text(bench: Bench) -> None:
    main(bench.argv([*bench.first_row(problem="<image><script>alert(1)</script>\x1b[31m")[:1]]))
    page = (bench.folder / "run.preflight.html").read_text()
    assert page.count("data:image/png;base64,") == 7  # of six prompts, and the lengths
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\u001b[31m" in page
    assert "<script" not in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    for part in ("Prompts as the model sees them", "Groups", "Memory by arithmetic", "run_dir:"):
        assert part in page


@pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no Chromium")
def test_page_fits_a_narrow_window(bench: Bench) -> None:
    page = bench.folder / "own.html"
    with pytest.raises(SystemExit):
        main(bench.argv([*bench.first_row(answer="many"), f"--page={page}"]))
    probe = "<script>document.title = document.documentElement.scrollWidth</script>"
    page.write_text(page.read_text() + probe)
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--window-size=500,900"]
    dumped = subprocess.run(
        [*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, check=True
    )
    [width] = re.findall(r"<title>(\d+)</title>", dumped.stdout)
    assert int(width) <= 500


@pytest.mark.parametrize("faulty", [False, True])
def test_fit_says_the_cheap_part(
    faulty: bool, bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing of a sound run; of another one it warns, and goes on to what is wrong after that."""
    later = {"benchmark": ["mathvista"], "data": {"mathvista": str(bench.folder / "nowhere")}}
    faults = ["--optimizer.lr=0", "--data.val_problems=2"] if faulty else []
    argv = bench.argv([f"--benchmarks={json.dumps(later)}", *faults])
    with pytest.raises(SystemExit):
        fit([word for word in argv if not word.startswith("--problems")])
    shown = capsys.readouterr()
    assert "nowhere" in shown.err
    said = re.findall("^warning, (.+?):", shown.out, re.MULTILINE)
    assert said == (["learning", "validation size"] if faulty else [])


def test_every_inspection_is_in_the_docs() -> None:
    page = (REPOSITORY / "docs/preflight.md").read_text()
    cells = [line.split("|")[1:5] for line in page.splitlines() if line.startswith("| ")]
    rows = {name.strip(): "fit" in fit for names, _, _, fit in cells for name in names.split(",")}
    named = {one.name: one.cheap for one in INSPECTIONS}
    assert {name: rows.get(name) for name in named} == named
    assert {*rows} - {*named} <= {*STAGES.values(), "name", "---"}
