"""The record of a run: JSON lines, and a progress bar that says what they say.

Each line of `log.jsonl` is an object with `step` (steps taken) and `kind`: `losses`, the means over the steps
since the line before, with `learning_rate` and `samples_per_second`; or `validation`, the metrics.
"""

import json
import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from util.errors import InputError
from util.paths import atomic_path, told_if_full


class RunLog:
    """Lines of a run and its progress bar."""

    def __init__(self, path: Path, start: int, steps: int) -> None:
        """Open the record.

        Args:
            path: of the lines; what was logged beyond `start`, by a run cut off, is dropped.
            start: steps already taken.
            steps: of the whole run.
        """
        from tqdm import tqdm

        self.path = path
        self.lines = [line for line in read_lines(path) if line["step"] <= start] if start else []
        _write_lines(path, self.lines)
        self._bar = tqdm(total=steps, initial=start, desc="train", unit="step", disable=None)
        self._sums: dict[str, Any] = {}
        self._steps, self._samples, self._since = 0, 0, time.perf_counter()

    def count(self, losses: dict[str, Any], samples: int) -> None:
        """Take note of a step. Its losses stay on their device until `write_losses`."""
        for name, value in losses.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._steps, self._samples = self._steps + 1, self._samples + samples
        self._bar.update()

    def write_losses(self, step: int, learning_rate: float) -> dict[str, Any]:
        """Write a line with the mean losses since the last one, and return it."""
        means = {name: float(value) / self._steps for name, value in self._sums.items()}
        speed = self._samples / max(time.perf_counter() - self._since, 1e-9)
        line = self._add({"step": step, "kind": "losses", "learning_rate": learning_rate,
                          "samples_per_second": round(speed, 2)} | means)
        self._bar.set_postfix_str(f"{means['total']:.3g} total, {speed:.1f} samples/s")
        self._sums, self._steps = {}, 0
        self.restart_clock()
        return line

    def write_validation(self, step: int, metrics: dict[str, float]) -> None:
        """Write a line with validation's metrics, and say them."""
        self._add({"step": step, "kind": "validation"} | metrics)
        self.say(f"step {step}: " + ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()))
        self.restart_clock()

    def restart_clock(self) -> None:
        """Leave the time since the last line out of the speed: it went into something else than training."""
        self._samples, self._since = 0, time.perf_counter()

    def say(self, text: str) -> None:
        """Print a line without breaking the bar."""
        self._bar.write(text)

    def close(self) -> None:
        """End the bar."""
        self._bar.close()

    def _add(self, line: dict[str, Any]) -> dict[str, Any]:
        """Append one line to the file."""
        line = {name: _finite(value) for name, value in line.items()}
        self.lines.append(line)
        with told_if_full(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        return line


def _finite(value: Any) -> Any:
    """Return a value that JSON can hold: undefined numbers become null, long ones six digits."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a record; none if there is no file. A last line cut off is dropped.

    Raises:
        InputError: another line is no JSON.
    """
    if not path.is_file():
        return []
    texts = path.read_text(encoding="utf-8").splitlines()
    lines = []
    for number, text in enumerate(texts, start=1):
        try:
            lines.append(json.loads(text))
        except ValueError as error:
            if number < len(texts):
                raise InputError(f"{path}: expected JSON in line {number}, found none; "
                                 f"remove the line") from error
    return lines


def _write_lines(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Write the whole record."""
    with atomic_path(path) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def curve(lines: Iterable[dict[str, Any]], kind: str, name: str) -> np.ndarray:
    """Return one quantity over the run: (N, 2) of step and value, NaN where it was undefined."""
    points = [(line["step"], line[name]) for line in lines if line["kind"] == kind and name in line]
    return np.array([(step, float("nan") if value is None else value) for step, value in points],
                    float).reshape(-1, 2)
