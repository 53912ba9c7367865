"""Samples of a WebDataset tar: members whose names begin alike, read by their extension.

Nothing is unpacked to disk and nothing is decoded but JSON and text: what else a sample has beside
its images is only named.
"""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

IMAGE_SUFFIXES = {"png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "avif", "img"}
TEXT_SUFFIXES = {"json", "txt"}
MOST_BYTES = 256 * 2**20
"""Of a member that is read."""

Members = dict[str, bytes | None]
"""The content of each member by its name in the tar, None if it is not read."""


def tar_samples(path: Path, *, only_text: bool = False) -> Iterator[tuple[str, Members]]:
    """Yield each sample with its key, in order; with `only_text` images are not read either.

    Raises ValueError for a file that is not a tar or is cut, and for a member above `MOST_BYTES`.
    """
    key, members = "", Members()
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                if not member.isreg():
                    continue
                folder, _, name = member.name.rpartition("/")
                own = f"{folder}/{name.partition('.')[0]}" if folder else name.partition(".")[0]
                if own != key and members:
                    yield key, members
                    members = Members()
                key = own
                members[member.name] = _content(tar, member, only_text)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if members:
        yield key, members


def suffix(name: str) -> str:
    """Return the last extension of a member, small and without its dot."""
    return name.rpartition(".")[2].lower()


def with_members(row: dict[str, Any], members: Members) -> dict[str, Any]:
    """Return a row in which the names of its sample's images are their bytes.

    Images that the row does not name are its `images`, unless it has some: then each is a column
    of its own. Other members are columns that say how they are called.
    """
    images = {name: one for name, one in members.items() if suffix(name) in IMAGE_SUFFIXES}
    by_name = {name.rpartition("/")[2]: name for name in images} | {name: name for name in images}
    used: set[str] = set()
    row = {column: _filled(value, images, by_name, used) for column, value in row.items()}
    unnamed = {name: one for name, one in images.items() if name not in used}
    if unnamed and not row.get("images") and not row.get("image"):
        row = {name: value for name, value in row.items() if name not in ("image", "images")}
        row["images"], unnamed = list(unnamed.values()), {}
    extension = {name: name.rpartition("/")[2].partition(".")[2] for name in members}
    row |= {extension[name]: one for name, one in unnamed.items()}
    for name, content in members.items():
        if suffix(name) == "txt" and content is not None:
            row[extension[name]] = content.decode(errors="replace")
        elif suffix(name) not in (*IMAGE_SUFFIXES, "json"):
            row[extension[name]] = f"{name}, not read"
    return row


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, only_text: bool) -> bytes | None:
    kind = suffix(member.name)
    if kind not in TEXT_SUFFIXES and (only_text or kind not in IMAGE_SUFFIXES):
        return None
    if member.size > MOST_BYTES:
        raise ValueError(f"member {member.name!r} has {member.size} bytes, above {MOST_BYTES}")
    file = tar.extractfile(member)
    assert file is not None, "a regular file has content"
    return file.read()


def _filled(value: Any, images: Members, by_name: dict[str, str], used: set[str]) -> Any:
    if isinstance(value, str) and value in by_name:
        used.add(by_name[value])
        return images[by_name[value]]
    if isinstance(value, list):
        return [_filled(one, images, by_name, used) for one in value]
    if isinstance(value, dict):
        return {key: _filled(one, images, by_name, used) for key, one in value.items()}
    return value
