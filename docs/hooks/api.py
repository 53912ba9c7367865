"""Hook of MkDocs: a page for each folder and module of `vlm_rl`, made from its docstrings."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

PACKAGE = Path(__file__).parents[2] / "vlm_rl"


def api_pages() -> dict[str, str]:
    """Return the text of each page by its path in the site."""
    folders = {path.parent for path in PACKAGE.glob("*/__init__.py")}
    modules = {path for path in PACKAGE.glob("*.py") if path.stem != "__init__"}
    parts = sorted(folders, key=lambda path: path.name) + sorted(modules)
    return {f"api/{part.stem}.md": "\n".join(_page(part)) for part in parts}


def _page(part: Path) -> Iterator[str]:
    name = f"vlm_rl.{part.stem}"
    yield f"# {name}\n\n::: {name}\n{_options(part.is_file(), level=2)}"
    # what a folder exports is with the module that defines it, and not twice
    for module in sorted(part.rglob("*.py")) if part.is_dir() else ():
        parents = module.relative_to(PACKAGE).with_suffix("").parts
        if parents != (part.name, "__init__"):
            path = ".".join(["vlm_rl", *parents]).removesuffix(".__init__")
            yield f"## {path}\n\n::: {path}\n{_options(module.stem != '__init__', level=3)}"


def _options(with_members: bool, *, level: int) -> str:
    members = "" if with_members else "members: false, "
    return f"    options: {{{members}heading_level: {level}}}\n"


def on_config(config: Any) -> Any:
    """Add the pages to the navigation."""
    config.nav.append({"API": [{Path(path).stem: path} for path in api_pages()]})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages to the site."""
    for path, text in api_pages().items():
        files.append(File.generated(config, path, content=text))
    return files
