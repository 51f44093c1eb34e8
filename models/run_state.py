"""A run's folder: where it stands, its best result, and how it is saved and taken up again."""

import os
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import BaseFileLock, FileLock, Timeout

from models.base_model import BaseModel
from models.checkpoint import SETTINGS, load_state, read_settings, save_generator, save_state
from models.height_prior import HeightPrior
from util.errors import InputError
from util.paths import make_folder, read_json, set_aside, write_json

# Flags that decide what the saved numbers mean: a run goes on with the same ones or not at all.
KEPT = ("model", "plane", "netG", "ngf", "ndf", "crop_cols", "attention", "healthy_max_grade", "augment",
        "batch_size", "seed", "optimizer", "beta1")
# What runs did before the flag was there.
EARLIER: dict[str, Any] = {"augment": [], "optimizer": "adam", "lambda_l2": 0.0, "lambda_coarse_l2": 0.0}
# Flags and settled weights that a run may go on with changed, on purpose or not: the change is told.
TOLD = ("lr", "n_epochs", "n_epochs_decay", "max_steps", "amp", "dataroot", "heatmaps")

LATEST = "latest_generator.safetensors"
STATE = ("step", "best_score", "best_step", "metrics", "cases", "random", "model")  # what `save` keeps


def check_writable(folder: Path) -> None:
    """Check, without writing, that a folder is there to be written or can be made.

    Raises:
        InputError: it cannot.
    """
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"--checkpoints_dir: expected to write to {folder}, found that {there} is no "
                         f"writable folder; choose another or change its permissions")


class RunState:
    """Steps taken, the best validation, and the files that keep them."""

    def __init__(self, folder: Path, options: Namespace, model: BaseModel, cases: list[str],
                 watched: list[str], prior: HeightPrior | None = None) -> None:
        self.folder, self.options, self.model, self.prior = folder, options, model, prior
        self.cases, self.watched = cases, watched
        self.step = 0
        self.best_score = float("-inf")
        self.best_step: int | None = None
        self.metrics: dict[str, float] = {}

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other runs out of the folder for a while.

        Raises:
            InputError: one is at work there.
        """
        lock = FileLock(self.folder.with_name(f".{self.folder.name}.lock"), timeout=0)
        self.model.world.first(partial(self._acquire, lock))
        try:
            yield
        finally:
            lock.release()

    def _acquire(self, lock: BaseFileLock) -> None:
        """Acquire the folder's lock, which goes when the process does, however it ends."""
        make_folder(self.folder.parent)
        try:
            lock.acquire()
        except Timeout as error:
            raise InputError(f"--name {self.folder.name}: expected nobody else to train into {self.folder}, "
                             f"found a run at work there; let it end, or choose another name") from error

    def begin(self, options: dict[str, Any]) -> None:
        """Start over or go on, as --continue_train says, and save the resolved flags.

        An earlier run of the same name that is not taken up is kept under another name. The folder is the
        first process's; the others hear from it.

        Raises:
            InputError: there is nothing to go on with, or it was made with other flags.
        """
        state = self.model.world.first(partial(self._open, options))
        if state is not None:
            self._restore(state)

    def _open(self, options: dict[str, Any]) -> dict[str, Any] | None:
        """Make the folder ready and save the flags; return the state of the run that goes on, if one does."""
        state = None
        if self.options.continue_train:
            before = self.check_same_run()
            state = load_state(self.folder / "latest_state.pt")
            self._check_state(state)
            self._tell_changes(before, options)
        elif (self.folder / "options.json").exists():
            print(f"an earlier run of this name is kept as {set_aside(self.folder)}")
        make_folder(self.folder)
        write_json(self.folder / "options.json", options)
        return state

    def note_validation(self, metrics: dict[str, float]) -> None:
        """Remember the metrics; save the generator if it is the best so far."""
        self.metrics = metrics
        if metrics["score"] > self.best_score:
            self.best_score, self.best_step = metrics["score"], self.step
            self._save_generator("best_generator.safetensors")

    def save(self) -> None:
        """Write the newest generator and all that the next step depends on."""
        self._save_generator(LATEST)
        random = {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}
        save_state(self.folder / "latest_state.pt", {
            "step": self.step, "best_score": self.best_score, "best_step": self.best_step,
            "metrics": self.metrics, "cases": self.cases, "watched": self.watched, "random": random,
            "model": self.model.state()})

    def _save_generator(self, name: str) -> None:
        """Write the generator with its description."""
        settings: dict[str, Any] = {flag: getattr(self.options, flag) for flag in SETTINGS}
        settings["training"] = {"steps": self.step, "vertebrae": len(self.cases),
                                "batch_size": self.options.batch_size, "seed": self.options.seed,
                                "metrics": json_numbers(self.metrics)}
        settings["height_prior"] = None if self.prior is None else self.prior.as_json()
        save_generator(self.folder / name, self.model.networks["generator"], settings)

    def check_same_run(self) -> dict[str, Any]:
        """Compare the flags with those of the run to go on with, and return those.

        Raises:
            InputError: there is no run, or it was made with other flags.
        """
        path = self.folder / "options.json"
        if not path.is_file():
            raise InputError(f"--continue_train: expected a run in {self.folder}, found none; check --name "
                             f"and --checkpoints_dir, or start without --continue_train")
        before = read_json(path)
        if not isinstance(before, dict):
            raise InputError(f"{path}: expected the flags of a run, found {type(before).__name__}; "
                             f"start without --continue_train")
        before = EARLIER | before
        changed = [f"--{flag} {before.get(flag)} (now {getattr(self.options, flag)})" for flag in KEPT
                   if before.get(flag) != getattr(self.options, flag)]
        if changed:
            raise InputError(f"--continue_train: expected the flags of the run in {self.folder}, found other "
                             f"ones: {', '.join(changed)}; repeat them, or start under another --name")
        return before

    def _check_state(self, state: dict[str, Any]) -> None:
        """Check that a saved state is this run's.

        Raises:
            InputError: it is not.
        """
        lacking = [key for key in STATE if key not in state]
        if lacking:
            raise InputError(f"--continue_train: expected the state of a run in {self.folder}, found a file "
                             f"without {', '.join(lacking)}; start without --continue_train")
        if set(state["model"]["networks"]) != set(self.model.networks):
            raise InputError("--continue_train: expected the same networks, found --lambda_gan switched "
                             "between 0 and another weight; repeat the flags of the run")
        if not self._are_built_alike(state["model"]["networks"]):
            raise InputError("--continue_train: expected the networks of this version of the software, found "
                             "others; start without --continue_train, or go on with the version that began")
        if state["cases"] != self.cases:
            _warn("the vertebrae to learn from have changed")
        if state.get("watched", self.watched) != self.watched:  # runs of earlier versions did not keep them
            _warn("the vertebrae to watch have changed, so that its best score is of others")

    def _are_built_alike(self, networks: dict[str, dict[str, Any]]) -> bool:
        """Tell whether saved networks are those that this version builds with the same flags."""
        arguments, _ = read_settings(self.folder / LATEST)
        return arguments == self.model.networks["generator"].arguments and all(
            networks[name].keys() == network.state_dict().keys()
            for name, network in self.model.networks.items())

    def _tell_changes(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        """Warn of flags and weights that are not those of the run so far."""
        names = [*TOLD, *(name for name in now if name.startswith("lambda_"))]
        changed = [f"--{name} {before[name]} (now {now[name]})" for name in names
                   if name in before and before[name] != now[name]]
        if changed:
            _warn(f"flags have changed: {', '.join(changed)}")

    def _restore(self, state: dict[str, Any]) -> None:
        """Undo `save`."""
        self.model.load_state(state["model"])
        self.step, self.best_score, self.best_step = state["step"], state["best_score"], state["best_step"]
        self.metrics = state["metrics"]
        torch.set_rng_state(state["random"]["cpu"])
        if len(state["random"]["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["random"]["cuda"])


def _warn(change: str) -> None:
    """Tell what differs from the run so far."""
    print(f"warning: --continue_train: {change}; the run goes on, but not as it would have", file=sys.stderr)


def json_numbers(values: dict[str, float]) -> dict[str, float | None]:
    """Return numbers rounded to four digits, undefined ones as None."""
    return {name: float(f"{value:.4g}") if abs(value) < float("inf") else None
            for name, value in values.items()}
