"""Upload a checkpoint of a run to a model hub, with a card made from the run:

    python -m vlm_rl.upload runs/quickstart --repo OWNER/NAME --dry_run
    python -m vlm_rl.upload runs/quickstart --repo OWNER/NAME

The repository is made if it is missing, and is private unless --public is given. What goes there is
in RUN/upload; with --dry_run that is all. Rollouts and images stay here unless asked for.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id
from jsonargparse import ArgumentParser

from vlm_rl.config import one_line_errors, parse
from vlm_rl.run import folder as run_folder
from vlm_rl.run.endings import one_line_endings
from vlm_rl.show.help.parser import new_parser
from vlm_rl.show.screen import say
from vlm_rl.upload.card import CardSource, model_card
from vlm_rl.upload.contents import REPLACED, names, stage
from vlm_rl.upload.evaluations import read_evaluations
from vlm_rl.upload.run_record import RunRecord, is_hub_id

CARD = "README.md"


def upload(
    run: Path,
    repo: str,
    checkpoint: str = "best",
    evaluation: Sequence[Path] = (),
    base_model: str | None = None,
    license: str | None = None,
    public: bool = False,
    rollouts: bool = False,
    images: bool = False,
    dry_run: bool = False,
) -> Path:
    """Make the folder of a checkpoint with its card, and send it unless `dry_run`.

    `checkpoint` is best, last or a step; `evaluation` are folders of vlm_rl.evaluate, of this
    checkpoint or its base; `base_model` is the hub id of what was trained, if the run has a path;
    `license` is a hub's name of one. Returns the folder. Raises ValueError for all that cannot be.
    """
    _check_names(repo, base_model)
    with run_folder.own(run, "run"):
        record = RunRecord.read(run, checkpoint)
        run_folder.check_sums(record.checkpoint)
        base = base_model or (record.base if is_hub_id(record.base) else None)
        benchmarks = read_evaluations(record, evaluation)
        folder = stage(record, base, rollouts=rollouts, images=images)
        source = CardSource(record, repo, base, license, benchmarks, names(folder))
        model_card(source).save(folder / CARD)
        _say_contents(folder)
        if not dry_run:
            _send(folder, repo, record.checkpoint.step, public=public)
    return folder


def _check_names(repo: str, base_model: str | None) -> None:
    for option, name in (("repo", repo), ("base_model", base_model)):
        try:
            if name is not None and name.count("/") != 1:
                raise HFValidationError("it has one slash")
            validate_repo_id(name or "a/b")
        except HFValidationError as error:
            raise ValueError(f"--{option} {name}: must be OWNER/NAME on a hub ({error})") from error


def _send(folder: Path, repo: str, step: int, *, public: bool) -> None:
    """Make the repository if it is missing, and send the folder in one commit."""
    if get_token() is None:
        raise ValueError("no token of a hub; run `hf auth login`, or set HF_TOKEN")
    api = HfApi(os.environ.get("HF_ENDPOINT"), library_name="vlm_rl")
    try:
        _refuse_public(api, repo, public)
        api.create_repo(repo, private=not public, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            commit_message=f"Step {step}",
            delete_patterns=[*REPLACED],
        )
    except HfHubHTTPError as error:
        reason = error.server_message or str(error)
        raise ValueError(
            f"{api.endpoint} refuses --repo {repo}: {reason}; the token of HF_TOKEN or `hf auth "
            "login` must be able to write there"
        ) from error
    except (HTTPError, ConnectionError) as error:
        raise ValueError(
            f"{api.endpoint} cannot be reached ({error}); {folder} is ready, and the same command "
            "sends it"
        ) from error
    say(f"uploaded: {commit.commit_url}")


def _refuse_public(api: HfApi, repo: str, public: bool) -> None:
    """Raise ValueError if the repository is there and public, unless that is meant."""
    try:
        is_private = api.model_info(repo).private
    except RepositoryNotFoundError:
        return
    if not is_private and not public:
        raise ValueError(f"--repo {repo} is public; name another, or give --public")


def _say_contents(folder: Path) -> None:
    sizes = {name: (folder / name).stat().st_size for name in names(folder)}
    for name, size in sizes.items():
        say(f"{size:>15,} bytes  {name}")
    say(f"{sum(sizes.values()):>15,} bytes in {len(sizes)} files: {folder}")


def build_parser() -> ArgumentParser:
    parser = new_parser("upload", __doc__, "RUN [--KEY VALUE ...]")
    parser.add_argument("run", type=Path, help="the folder of a run")
    parser.add_argument("--repo", type=str, required=True, help="OWNER/NAME on the hub")
    parser.add_argument("--checkpoint", type=str, default="best", help="best, last or a step")
    parser.add_argument(
        "--evaluation",
        type=Path,
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="of vlm_rl.evaluate, for the card; of this checkpoint or of what it was trained from",
    )
    parser.add_argument("--base_model", type=str | None, help="its hub id, if the run has a path")
    parser.add_argument("--license", type=str | None, help="for the card, such as apache-2.0")
    for name, text in (
        ("public", "everyone may read it"),
        ("rollouts", "send them too: they hold questions and answers of the data"),
        ("images", "send the first problems' images too"),
        ("dry_run", "write RUN/upload and send nothing"),
    ):
        parser.add_argument(f"--{name}", action="store_true", help=text)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Upload as the command line says."""
    with one_line_endings("vlm_rl.upload") as ending, one_line_errors("vlm_rl.upload"):
        ending.left = "stopped; the same command goes on"
        config = parse(build_parser(), argv)
        upload(**vars(config))


if __name__ == "__main__":
    main()
