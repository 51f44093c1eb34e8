"""Running the project's own commands one after another, each as a user would."""

import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from util.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
SOME_FAILED = 1  # exit status of a stage that went on past bad cases, see util.stage

Step = tuple[str, str]  # what it is for; the script, relative to the repository, and its flags


def run_steps(steps: Sequence[Step], folder: Path, *, past_bad_cases: bool = False) -> int:
    """Run commands one after another, telling each and how long it took.

    Args:
        steps: quoted as a shell has it (`shlex.join`).
        folder: where they run, to which relative paths in them belong.
        past_bad_cases: go on where a stage failed on some cases, which it has listed.

    Returns:
        0, or 1 where a stage failed on some cases.

    Raises:
        InputError: a command ends with another status than zero, or than one with `past_bad_cases`.
    """
    worst = 0
    for number, (purpose, command) in enumerate(steps, 1):
        print(f"\n[{number}/{len(steps)}] {purpose}\n$ python {command}", flush=True)
        begun = time.monotonic()
        script, *flags = shlex.split(command)
        status = subprocess.run([sys.executable, ROOT / script, *flags], cwd=folder, check=False).returncode
        if status and not (past_bad_cases and status == SOME_FAILED):
            raise InputError(f"step {number}: expected 'python {command}' to succeed, found exit "
                             f"status {status}; see what it printed above")
        worst = max(worst, status)
        print(f"({time.monotonic() - begun:.0f} s)", flush=True)
    return worst
