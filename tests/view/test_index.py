"""The index: what it holds, and how it follows a run that goes on, resumes, or loses files.

Broken on purpose, each seen red: changed files not read again; files that are gone kept; the change
of accuracy from last to first; offsets without the line's end; a search that stops at the first
file; a damaged file ending the index; an index of another version kept.
"""

import gzip
import sqlite3
from pathlib import Path

import pytest

from tests.support.viewed_runs import completion, right, small_run, write_step
from vlm_rl.view import queries
from vlm_rl.view.folder import RunFolder
from vlm_rl.view.index import RolloutIndex
from vlm_rl.view.queries import Filter


def indexed(folder: Path) -> RolloutIndex:
    index = RolloutIndex(RunFolder(folder, "run"))
    index.refresh()
    return index


def listed(index: RolloutIndex, order: str = "accuracy") -> list[tuple[str, float, float | None]]:
    rows, total = queries.problems(index, text="", source="", order=order, page=0)
    assert total == len(rows)
    return [(row["uid"], row["accuracy"], row["change"]) for row in rows]


def found(index: RolloutIndex, **wanted: object) -> list[str]:
    return [row["completion"] for row in queries.completions(index, Filter(**wanted)).rows]  # type: ignore[arg-type]


def test_problems_golden(tmp_path: Path) -> None:
    """`a` goes from 0 of 4 to 3 of 4, `b` has 1 of 4 twice."""
    index = indexed(small_run(tmp_path / "run"))
    assert listed(index) == [("b", 0.25, 0.0), ("a", 0.375, 0.75)]
    assert listed(index, "-change") == [("a", 0.375, 0.75), ("b", 0.25, 0.0)]
    problem = queries.problem(index, "a")
    assert problem is not None
    assert [(v["step"], v["correct"], v["num"]) for v in problem["visits"]] == [
        (1, 0, 4),
        (2, 3, 4),
    ]


def test_completions_are_those_of_the_files(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    lines = [completion("é", "x\u2028y\n中"), right("é", "z" * 300), completion("f", "")]
    write_step(folder, 1, lines)
    index = indexed(folder)
    assert found(index) == ["", "x\u2028y\n中", "z" * 300], "the newest group first"
    assert found(index, verdict="correct") == ["z" * 300]
    assert found(index, longest=5) == ["", "x\u2028y\n中"]
    assert found(index, shortest=1, longest=5) == ["x\u2028y\n中"]
    assert found(index, text="\n中") == ["x\u2028y\n中"]
    assert found(index, text="ZZZ") == ["z" * 300]
    assert found(index, text="source") == [], "the names of fields are no text"
    assert found(index, source="charts", step=1, verdict="wrong") == ["", "x\u2028y\n中"]
    assert found(index, source="other") == found(index, step=2) == []


def test_index_follows_a_run_that_goes_on_and_one_that_resumes(tmp_path: Path) -> None:
    folder = small_run(tmp_path / "run")
    index = indexed(folder)
    assert index.refresh() is False
    write_step(folder, 3, [right("b", "new"), right("c", "new")])
    assert index.refresh() is True
    assert listed(index) == [("b", 3 / 9, 0.75), ("a", 0.375, 0.75), ("c", 1.0, None)]
    write_step(folder, 3, [completion("d", "other")])  # the step is done again after a resume
    index.refresh()
    assert [uid for uid, *_ in listed(index)] == ["d", "b", "a"]
    (folder / "rollouts" / "step_000001.jsonl").unlink()  # as rollouts.keep_last does
    index.refresh()
    assert ("a", 0.75, None) in listed(index)
    assert index.progress.files == index.progress.indexed == 2


def test_index_is_kept_and_made_anew_by_another_version(tmp_path: Path) -> None:
    folder = small_run(tmp_path / "run")
    path = indexed(folder).path
    assert path == folder / "view" / "index.sqlite"
    kept = RolloutIndex(RunFolder(folder, "run"))
    assert kept.refresh() is False, "nothing is read again"
    with sqlite3.connect(path) as base:
        base.execute("PRAGMA user_version = 99")
    base.close()
    assert indexed(folder).progress.indexed == 2
    path.write_bytes(b"no data base at all" * 100)
    assert len(listed(indexed(folder))) == 2


def test_folder_that_cannot_be_written_gets_a_temporary_index(tmp_path: Path) -> None:
    folder = small_run(tmp_path / "run")
    (folder / "view").write_text("a file, which even root cannot write into")
    index = indexed(folder)
    assert not index.path.is_relative_to(tmp_path)
    assert len(listed(index)) == 2
    index.close()
    assert not index.path.exists()


@pytest.mark.parametrize(
    "damage", [b'{"uid": "x"', b"\xff\xfe\n", b"[]\n", b'{"uid": 1}\n', b"\x00"]
)
def test_damaged_file_is_named_and_left_out(tmp_path: Path, damage: bytes) -> None:
    folder = small_run(tmp_path / "run")
    file = write_step(folder, 3, [completion("c", "whole")])
    whole = file.read_bytes()
    file.write_bytes(whole + damage)
    index = indexed(folder)
    [line] = index.progress.damaged
    assert line.startswith("rollouts/step_000003.jsonl is left out: ")
    assert len(listed(index)) == 2
    file.write_bytes(whole)
    index.refresh()
    assert index.progress.damaged == []
    assert len(listed(index)) == 3


def test_files_of_ranks_and_packed_files_are_read_too(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    write_step(folder, 1, [completion("a", "of rank 0")], "_rank_0")
    plain = write_step(folder, 1, [completion("b", "of rank 1"), right("b", "too")], "_rank_1")
    with gzip.open(f"{plain}.gz", "wb") as packed:
        packed.write(plain.read_bytes())
    plain.unlink()
    index = indexed(folder)
    assert sorted(found(index)) == ["of rank 0", "of rank 1", "too"]
    assert found(index, text="rank 1") == ["of rank 1"]


def test_dropped_groups_are_groups_of_their_own(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    dropped = {"trained": False, "advantage": None}
    write_step(folder, 1, [right("a", "kept"), right("a", "dropped", **dropped)])
    problem = queries.problem(indexed(folder), "a")
    assert problem is not None
    assert [visit["trained"] for visit in problem["visits"]] == [1, 0]


def test_pages_of_completions_hold_each_once(tmp_path: Path) -> None:
    """Groups stay whole, so a page may hold a few less."""
    folder = tmp_path / "run"
    for step in (1, 2, 3):
        groups = [[completion(f"p{g}", f"{step} {g} {n}") for n in range(8)] for g in range(9)]
        write_step(folder, step, [line for group in groups for line in group])
    index = indexed(folder)
    for text in ("", " "):
        seen: list[str] = []
        before = None
        while True:
            page = queries.completions(index, Filter(text=text, before=before))
            seen += [row["completion"] for row in page.rows]
            before = page.go_on
            if before is None:
                break
        assert len(seen) == len(set(seen)) == 3 * 9 * 8
        assert seen[0].startswith("3 ")


def test_group_of_a_file_written_anew_meanwhile_is_left_out(tmp_path: Path) -> None:
    folder = small_run(tmp_path / "run")
    index = indexed(folder)
    (folder / "rollouts" / "step_000002.jsonl").write_text("{}" * 4000)
    problem = queries.problem(index, "a")
    assert problem is not None
    assert queries.group(index, problem["visits"][-1]["id"]) == []
    (folder / "rollouts" / "step_000002.jsonl").unlink()
    assert queries.group(index, problem["visits"][-1]["id"]) == []
