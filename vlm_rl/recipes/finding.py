"""Find a shipped configuration by its name, and what it names relative to the repository."""

from collections.abc import Sequence
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

CONFIGS = Path(__file__).parent / "configs"
_SHIPPED = "data_prep/"


def names() -> list[str]:
    """Return the name of every recipe: its path below `configs/` without `.yaml`."""
    files = CONFIGS.rglob("*.yaml")
    return sorted(path.relative_to(CONFIGS).with_suffix("").as_posix() for path in files)


def find(given: str) -> str:
    """Return the file that `given` means: a file of that path, or else the recipe of that name.

    `configs/` before a name and `.yaml` after it may be left out. Raises ValueError.
    """
    if Path(given).exists() and not Path(given).is_dir():
        return given
    by_name = {name.lower(): name for name in names()}
    name = given.removeprefix("./").removeprefix("configs/").removesuffix(".yaml").lower()
    if name in by_name:
        return str(CONFIGS / f"{by_name[name]}.yaml")
    what = "is a folder" if Path(given).is_dir() else "is not a file"
    hint = _hint(given, name, by_name)
    raise ValueError(f"{given} {what}, and no recipe has that name; {hint}")


def with_files(argv: Sequence[str]) -> list[str]:
    """Return a command line with the file of each `--config NAME`. Raises ValueError."""
    words: list[str] = []
    for word in argv:
        option, equals, value = word.partition("=")
        try:
            if words and words[-1] == "--config":
                word = find(word)
            elif option == "--config" and equals:
                word = f"--config={find(value)}"
        except ValueError as error:
            raise ValueError(f"--config {error}") from error
        words.append(word)
    return words


def shipped(path: str) -> str:
    """Return where `path` is: a recipe names what lies in `data_prep/` relative to the repository,
    and an installed package has it elsewhere."""
    if not path.startswith(_SHIPPED) or Path(path).exists():
        return path
    spec = find_spec(_SHIPPED.rstrip("/"))
    folders = spec.submodule_search_locations if spec else None
    installed = [Path(folder) / path.removeprefix(_SHIPPED) for folder in folders or ()]
    return next((str(place) for place in installed if place.exists()), path)


def _hint(given: str, name: str, known: dict[str, str]) -> str:
    beside = {str(path): str(path) for path in Path(given).parent.glob("*.yaml")}
    by_leaf = {key.rpartition("/")[2]: value for key, value in known.items()}
    if begun := [value for key, value in known.items() if key.startswith(name)]:
        return f"there are {', '.join(begun)}" if begun[1:] else f"did you mean {begun[0]}?"
    for word, meant in ((given, beside), (name, known), (name.rpartition("/")[2], by_leaf)):
        if close := get_close_matches(word, meant, n=1):
            return f"did you mean {meant[close[0]]}?"
    return "`vlm-rl recipes` lists them"
