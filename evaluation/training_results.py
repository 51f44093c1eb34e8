"""What a run shows while it goes on: log, progress, pictures, a page, and a live window if asked for."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluation.validation import Restored, results_picture
from models.run_state import RunState
from util.live_view import LiveView
from util.paths import visible
from util.picture import write_png
from util.run_log import RunLog
from util.run_page import write_page

PICTURES_KEPT = 4  # of the newest validations; the page would grow without end


class TrainingResults:
    """The outputs of a run, from the step at which this process takes it up."""

    def __init__(self, run: RunState, settings: dict[str, Any], steps: int) -> None:
        self.run, self.settings, self.steps, self.start = run, settings, steps, run.step
        self.web = run.folder / "web"
        self.log = RunLog(run.folder / "log.jsonl", run.step, steps)
        options = run.options
        self.live = (LiveView(options.display_server, options.display_port, options.name)
                     if options.display == "visdom" else None)
        if self.run.best_step is not None:
            self._write_page()  # it said that the run had stopped

    def is_due(self, frequency: int) -> bool:
        """Tell whether something that comes every `frequency` steps, and at the end, comes now."""
        return self.run.step % frequency == 0 or self.run.step == self.steps

    def count(self, losses: dict[str, Any], samples: int) -> None:
        """Take note of a step."""
        self.log.count(losses, samples)

    def write_losses(self, learning_rate: float) -> None:
        """Write the mean losses since the last line."""
        line = self.log.write_losses(self.run.step, learning_rate)
        if self.live:
            self.live.show_values("losses", self.run.step, _terms(line))

    def write_validation(self, metrics: dict[str, float], restored: Sequence[Restored]) -> None:
        """Write metrics, pictures and the page; keep the generator if it is the best so far."""
        self.log.write_validation(self.run.step, metrics)
        self.run.note_validation(metrics)
        picture = results_picture(restored)
        write_png(self.web / f"step_{self.run.step:07d}.png", picture)
        for path in self._pictures()[PICTURES_KEPT:]:
            path.unlink()
        self._write_page()
        if self.live:
            self.live.show_values("metrics", self.run.step, metrics)
            self.live.show_picture("restored", picture)
        self.log.restart_clock()

    def close(self) -> None:
        """Say, here and on the page, where the run stands, and where its results are."""
        self.log.close()
        rest = self.steps - self.run.step
        stands = (f"step {self.run.step} of {self.steps}"
                  + (f", {rest} left: go on with --continue_train" if rest else ", complete"))
        reached = "no validation yet"
        if self.run.best_step is not None:
            self._write_page(f"The run has {'stopped' if rest else 'ended'}: {stands}.")
            reached = f"best validation at step {self.run.best_step}; results: {self.web / 'index.html'}"
        print(f"{stands}; {reached}", flush=True)

    def _pictures(self) -> list[Path]:
        """Return the pictures of the validations, newest first."""
        return visible(self.web, "step_*.png")[::-1]

    def _write_page(self, ended: str = "") -> None:
        """Write the page; `ended` as in `util.run_page.write_page`."""
        write_page(self.web, self.settings, self.log.lines, [path.name for path in self._pictures()],
                   self.run.best_step, ended)


class NoResults(TrainingResults):
    """What the other processes of a run put out."""

    def __init__(self, run: RunState) -> None:
        self.start = run.step

    def is_due(self, frequency: int) -> bool:
        """Nothing ever is."""
        return False

    def count(self, losses: dict[str, Any], samples: int) -> None:
        """Take no note."""

    def close(self) -> None:
        """Say nothing."""


def results_of(run: RunState, settings: dict[str, Any], steps: int) -> TrainingResults:
    """Return the outputs of a run in the first of its processes, and of none in the others."""
    return TrainingResults(run, settings, steps) if run.model.world.is_first else NoResults(run)


def _terms(line: dict[str, Any]) -> dict[str, float]:
    """Return the losses of a line of the log."""
    return {name: float("nan") if value is None else value for name, value in line.items()
            if name not in ("step", "kind", "learning_rate", "samples_per_second")}
