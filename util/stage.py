"""A stage: one piece of work for each of many cases, resumable, in parallel, with an honest end."""

import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path

from util.errors import remedy_of

# Works on cases as it likes; tells each that is done, and what it says or how it failed.
Together = Callable[[Sequence[str]], Iterable[tuple[str, Future[str | None]]]]


def run_stage(title: str, work: Callable[[str], str | None], cases: Sequence[str],
              is_complete: Callable[[str], bool], *, jobs: int = 1, overwrite: bool = False,
              scheduler: str | None = None, together: Together | None = None) -> int:
    """Do a piece of work for every case that is not complete, and say what became of each.

    A case that fails does not stop the others. What a case has to say (`work` returns a text) is printed.

    Args:
        title: names the stage in the progress bar and the closing line.
        work: picklable where `jobs` is above 1 or there is a scheduler.
        cases: names, each handed to `work`.
        is_complete: tells which cases need no work.
        jobs: processes of this machine.
        overwrite: do complete cases too.
        scheduler: `host:port` of a Dask scheduler whose workers do the cases instead.
        together: does the work of several cases side by side, within this one process; without it they are
            done one after the other where there are no others.

    Returns:
        The exit status: 0, or 1 if any case failed.

    Raises:
        InputError: there is no such scheduler, or its workers cannot do this work.
    """
    from tqdm import tqdm

    waiting = [case for case in cases if overwrite or not is_complete(case)]
    failures: dict[str, str] = {}
    done = 0
    with tqdm(total=len(waiting), desc=title, unit="case", disable=None if waiting else True) as bar:
        for case, message, failure in _outcomes(work, waiting, jobs, scheduler, together):
            bar.update()
            if failure:
                failures[case] = failure
            else:
                done += 1
            if message:
                bar.write(f"{case}: {message}", file=sys.stderr)
    for case in (case for case in waiting if case in failures):
        print(f"{title}: {case} failed: {failures[case]}", file=sys.stderr)
    print(f"{title}: {done} done, {len(cases) - len(waiting)} skipped (complete), {len(failures)} failed")
    return 1 if failures else 0


Outcome = tuple[str, str | None, str | None]  # case, what it says, why it failed


def _attempt(work: Callable[[str], str | None], case: str) -> Outcome:
    """Do one case, and report a failure instead of raising it."""
    try:
        return case, work(case), None
    except Exception as error:  # the other cases go on
        return case, None, remedy_of(error) or _fault(error)


def _fault(error: Exception) -> str:
    """Return a fault of the program in one line, with its place."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(place.filename).name}:{place.lineno}"
    return f"{type(error).__name__}: {' '.join(str(error).split())} ({where})"


def _outcomes(work: Callable[[str], str | None], cases: Sequence[str], jobs: int, scheduler: str | None,
              together: Together | None) -> Iterable[Outcome]:
    """Yield the outcome of each case as it is there."""
    attempt = partial(_attempt, work)
    alone = not cases or (scheduler is None and min(jobs, len(cases)) == 1)
    if alone and together:
        yield from (_attempt(partial(_result, done), case) for case, done in together(cases))
        return
    if alone:
        yield from map(attempt, cases)
        return
    from util.workers import answers, cluster_workers, local_workers

    with cluster_workers(scheduler) if scheduler else local_workers(min(jobs, len(cases))) as client:
        for case, outcome, failure in answers(client, attempt, cases):
            yield outcome or (case, None, failure)


def _result(done: Future[str | None], _case: str) -> str | None:
    """Return what work that is done has to say, or raise what ended it."""
    return done.result()
