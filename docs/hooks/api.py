"""Hook of MkDocs: a page for each module and folder of `vlm_rl`, made from its docstrings."""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

PACKAGE = Path(__file__).parents[2] / "vlm_rl"


def api_pages() -> dict[str, str]:
    """Return the text of each page by its path in the site."""
    folders = [path.parent for path in PACKAGE.glob("*/__init__.py")]
    modules = [path for path in PACKAGE.glob("*.py") if not path.stem.startswith("_")]
    names = sorted(folder.name for folder in folders) + sorted(path.stem for path in modules)
    return {f"api/{name}.md": f"# vlm_rl.{name}\n\n::: vlm_rl.{name}\n" for name in names}


def on_config(config: Any) -> Any:
    """Add the pages to the navigation."""
    config.nav.append({"API": [{Path(path).stem: path} for path in api_pages()]})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages to the site."""
    for path, text in api_pages().items():
        files.append(File.generated(config, path, content=text))
    return files
