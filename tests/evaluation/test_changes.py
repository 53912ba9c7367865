"""What changed between two evaluations: counts by hand, the page, and images on it.

Broken on purpose, one at a time, each seen red:
    lost and gained the other way round; a tie as right -> counts
    questions without a checked sample kept -> counts
    the first sample shown whatever it says -> page
    images of a table looked for on disk -> images
"""

import io
import json
from pathlib import Path

from PIL import Image

from tests.evaluation.test_comparison import folder
from tests.evaluation.test_report import question
from vlm_rl.evaluation.changes import changes_between
from vlm_rl.evaluation.changes_report import write_changes
from vlm_rl.evaluation.report import write_samples


def test_changes_are_counted_by_question(tmp_path: Path):
    first = folder(tmp_path / "a", dict(zip("abcdefg", "rrwwrrt", strict=True)) | {"h": "rw"})
    second = folder(tmp_path / "b", dict(zip("abcdefg", "rwruwtr", strict=True)) | {"h": "rr"})
    (changes,) = changes_between(first, second)
    # f was not checked after, g not before; h was right of half its samples, which is not enough
    assert changes.counts == {
        ("right", "right"): 1,
        ("right", "wrong"): 2,
        ("wrong", "right"): 2,
        ("wrong", "wrong"): 1,
    }
    assert [one.uid for one in changes.lost] == ["b", "e"]
    assert [one.uid for one in changes.gained] == ["c", "h"]  # c moved by 1, h by a half
    assert changes.moved == {"more often right": 2, "less often right": 2}
    assert changes.how_lost == {"wrong": 2}
    assert changes.how_wrong == {"wrong": 2}


def test_categories_and_reasons_of_what_was_lost(tmp_path: Path):
    sides = (("a", "r", [9], "r"), ("b", "u", [99], "w"))
    for side, marks, lengths, other in sides:
        judged = question("q", marks, lengths=lengths, meta={"categories": {"subject": "algebra"}})
        judged += question("p", other, lengths=[5], meta={"categories": {"subject": "geometry"}})
        (tmp_path / side / "x").mkdir(parents=True)
        write_samples(judged, tmp_path / side / "x" / "samples.jsonl")
    (changes,) = changes_between(tmp_path / "a", tmp_path / "b")
    assert changes.how_lost == {"wrong": 1, "unparsable, cut off at the budget": 1}
    rows = [(c.value, c.num_questions, c.lost, c.gained) for c in changes.categories]
    assert rows == [("algebra", 1, 1, 0), ("geometry", 1, 1, 0)]
    assert (changes.lost[1].tokens_before, changes.lost[1].tokens_after) == (9, 99)


def test_page_shows_a_right_and_a_wrong_response_of_each_question(tmp_path: Path):
    first = folder(tmp_path / "a", {"a": "wrr", "b": "r"}, text="<image>What | is it?")
    second = folder(tmp_path / "b", {"a": "rww", "b": "r"}, text="<image>What | is it?")
    write_changes(first, second, tmp_path / "out")
    page = (tmp_path / "out" / "changes.md").read_text()
    assert "### From right to wrong: 1" in page
    assert "### From wrong to right: 0" in page
    assert "What \\| is it?" in page
    assert "| first | 67 | - | 7 | correct (number) | text 1 |" in page
    assert "| second | 33 | - | 7 | wrong (number) | text 1 |" in page
    (plain,) = json.loads((tmp_path / "out" / "changes.json").read_text())["benchmarks"]
    assert plain["counts"]["right -> wrong"] == 1
    assert [one["uid"] for one in plain["lost"]] == ["a"]


def test_nothing_in_common_or_nothing_changed_is_said(tmp_path: Path):
    first = folder(tmp_path / "a", {"a": "t"})
    second = folder(tmp_path / "b", {"a": "r"})
    write_changes(first, second, tmp_path / "out")
    assert "| right before | 0 | 0 |" in (tmp_path / "out" / "changes.md").read_text()


def png(color: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (900, 600), color).save(buffer, "PNG")
    return buffer.getvalue()


def test_images_are_small_copies_from_disk_or_from_who_has_them(tmp_path: Path):
    (tmp_path / "one.png").write_bytes(png("red"))
    stored = {"images": (tmp_path / "one.png",)}
    first, second = (folder(tmp_path / s, {"a": m}, **stored) for s, m in (("a", "r"), ("b", "w")))
    write_changes(first, second, tmp_path / "out")
    assert (
        "![changes/mathvision/1.jpg](changes/mathvision/1.jpg)"
        in (tmp_path / "out" / "changes.md").read_text()
    )
    with Image.open(tmp_path / "out/changes/mathvision/1.jpg") as small:
        assert small.size == (360, 240)
        assert small.getpixel((9, 9))[0] > 200
    table = {"images": (png("blue"),)}
    first, second = (folder(tmp_path / s, {"a": m}, **table) for s, m in (("c", "r"), ("d", "w")))
    write_changes(first, second, tmp_path / "without")
    assert "its image lies in a table" in (tmp_path / "without" / "changes.md").read_text()
    write_changes(first, second, tmp_path / "with", lambda name, uid: table["images"])
    with Image.open(tmp_path / "with/changes/mathvision/1.jpg") as small:
        assert small.getpixel((9, 9))[2] > 200
