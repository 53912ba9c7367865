"""W&B beside a run: a bad key is found at the start, and a lost connection ends nothing."""

import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import requests
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from vlm_rl.errors import joined
from vlm_rl.metrics.panels import names_by_bin
from vlm_rl.show.screen import say
from vlm_rl.trackers.tracker import TableRows, Tracker
from vlm_rl.trackers.wandb_table import wandb_table

LOOK_S = 60.0
"""How often W&B is asked whether it is there."""

ANSWER_S = 10.0

START_S = 60.0
"""How long W&B may take to begin a run, before it goes on offline."""

FINISH_S = 60.0
"""How long the last of a run may take to be sent; W&B itself would try for days."""

AXIS = "step"
"""The metric over which W&B draws all others."""

WAY_OUT = "log in by `wandb login`, or keep the run on this disk by --logging.wandb offline"


def check_login() -> None:
    """Check key and connection, in about 10 s at most. Raises ValueError."""
    import wandb

    try:
        is_in = wandb.login(verify=True, timeout=int(ANSWER_S))
    except wandb.Error as error:
        raise ValueError(f"logging.wandb=online: {joined(str(error))}; {WAY_OUT}") from error
    if not is_in:
        raise ValueError(f"logging.wandb=online: there is no key; {WAY_OUT}")


class SteadyWandb(WandbLogger, Tracker):
    """Says once that W&B cannot be reached, and lets the run go on; ends W&B's run with `with`.

    Without a network W&B's own process keeps what is logged and sends it later. If that process is
    gone, nothing more is logged there; metrics.csv has it all.
    """

    _is_gone = False
    _watch: "Watch | None" = None

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        # Lightning passes it always, and W&B warns of it at every start
        self._wandb_init.pop("anonymous", None)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Return W&B's run. It is begun at the first call, offline if W&B cannot be reached."""
        from wandb.errors import CommError

        folder = Path(str(self.save_dir)) / "wandb"
        before = {*folder.glob("run-*")}
        is_new = self._experiment is None
        try:
            run = super().experiment
            if is_new:
                _choose_axis(run)
            return run
        except CommError as error:
            _end_process()  # it holds the id of the run that has not begun
            for begun in {*folder.glob("run-*")} - before:
                shutil.rmtree(begun)  # holds nothing
            self._offline = True
            self._wandb_init |= {"mode": "offline", "resume": None}
            run = super().experiment
            _choose_axis(run)
            say(
                f"W&B cannot begin this run ({joined(str(error))}); the run goes on offline, send "
                f"it later by `wandb sync {_folder(run)}`"
            )
            return run

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        self._steadily(lambda: super(SteadyWandb, self).log_hyperparams(*args, **kwargs))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        if step is not None:
            metrics = {**metrics, AXIS: step}
        self._steadily(lambda: super(SteadyWandb, self).log_metrics(metrics, step))

    @rank_zero_only
    def show_samples(self, step: int, columns: Sequence[str], rows: TableRows) -> None:
        self.log_metrics({"samples": wandb_table(columns, rows)}, step)

    @rank_zero_only
    def show_alert(self, step: int, title: str, text: str) -> None:
        """Send a warning, which W&B shows with the run and mails as its user has set."""
        self._steadily(lambda: self.experiment.alert(title=title, text=text, level="WARN"))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._watch is not None:
            self._watch.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Send the rest and end W&B's run, with the status with which the program ends."""
        self.finalize("success")
        if self._experiment is not None:
            code = getattr(error, "code", 1) if error else 0
            self._finish(code if isinstance(code, int) else 1)

    def _finish(self, status: int) -> None:
        import wandb
        from wandb.sdk.mailbox import HandleAbandonedError

        run: Any = self._experiment
        try:
            if not self._is_gone:
                run.finish(exit_code=status)
                return
        except TimeoutError:
            say(
                f"W&B did not take the last of this run within {FINISH_S:g} s; it is kept, send it "
                f"by `wandb sync {_folder(run)}`"
            )
        except (wandb.Error, OSError, HandleAbandonedError) as error:
            reason = joined(str(error) or "its process is gone")
            say(f"W&B did not take the last of this run ({reason}); {self.save_dir} has it all")
        _end_process()  # if it is gone, W&B would try to end it at exit, with a traceback

    def _steadily(self, call: Callable[[], None]) -> None:
        import wandb

        if self._is_gone:
            return
        try:
            call()
            if self._watch is None and not self._offline:
                self._watch = Watch(str(self.experiment.settings.base_url))
        except (wandb.Error, OSError) as error:
            self._is_gone = True
            say(
                f"W&B no longer takes what is logged ({joined(str(error))}); the run goes on, "
                "metrics.csv has it all"
            )


def _choose_axis(run: Any) -> None:
    """Have every chart over the steps of the run, as in metrics.csv; none of a single bin of
    length, which the table `length/bins` has and which would be most of the charts."""
    run.define_metric(AXIS)
    for name in names_by_bin():
        run.define_metric(name, step_metric=AXIS, step_sync=True, hidden=True)
    run.define_metric("*", step_metric=AXIS, step_sync=True)


def _end_process() -> None:
    """End W&B's own process; the next run begins another."""
    import wandb

    with suppress(wandb.Error, OSError, SystemExit):
        wandb.teardown()


def _folder(run: Any) -> Path:
    """Return the folder of a run of W&B."""
    return Path(run.dir).parent


class Watch:
    """Says once that a server is away, and that it is back, from a thread of its own."""

    def __init__(self, url: str, every_s: float = LOOK_S) -> None:
        self._url = url
        self._every_s = every_s
        self._is_away = False
        self._closed = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def close(self) -> None:
        """Look no more."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.wait(self._every_s):
            self._look()

    def _look(self) -> None:
        reason = self._reason()
        if reason is not None and not self._is_away:
            self._say(
                f"W&B at {self._url} cannot be reached ({reason}); the run goes on, and W&B "
                "sends what it has once it can; later by `wandb sync` of the folder in wandb/"
            )
        elif reason is None and self._is_away:
            self._say(f"W&B at {self._url} is reached again")
        self._is_away = reason is not None

    def _reason(self) -> str | None:
        try:
            # any answer is one, also that of a proxy
            requests.head(self._url, timeout=ANSWER_S, allow_redirects=False)
        except requests.RequestException as error:
            return type(error).__name__
        return None

    def _say(self, line: str) -> None:
        say(line)
