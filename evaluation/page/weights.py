"""Which weights made the syntheses of a page, and whether the training run it shows is theirs."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from dominate import tags as t

from evaluation.page.results import read_if_there
from evaluation.page.writing import add_table
from models.synthesis_records import record_path
from util.paths import file_digest, visible

DIGITS = 12  # of a digest that is shown
UNNAMED = "not named: made by an earlier version of this software"

Weights = tuple[tuple[str, str], ...]  # file and digest of each that made a synthesis; empty where unknown


def weights_used(cases: Iterable[str], output: Path) -> Counter[Weights]:
    """Return how many of the cases' syntheses were made by each set of weights, as their records name them.

    Raises:
        InputError: a record is damaged.
    """
    records = filter(None, (read_if_there(record_path(output, case)) for case in cases))
    return Counter(tuple((one["file"], one["sha256"]) for one in record.get("weights", ()))
                   for record in records)


def add_weights(used: Counter[Weights]) -> None:
    """Add a table of the weights to the open page; nothing where there is no record of a synthesis."""
    if not used:
        return
    with t.section(id="weights"):
        t.h2("Weights")
        t.p("These generators synthesized the healthy vertebrae on this page; two, one per plane, are fused. "
            "Beside each file stand the first digits of its SHA-256 digest.")
        rows = [[_named(weights) if weights else UNNAMED, str(count)]
                for weights, count in used.most_common()]
        add_table(["weights", "vertebrae"], rows)


def _named(weights: Iterable[tuple[str, str]]) -> str:
    """Return weights as text."""
    return " and ".join(f"{file} ({digest[:DIGITS]})" for file, digest in weights)


def relation(used: Counter[Weights], run: Path) -> str:
    """Return in words whether the generators of a training run, as they are now, made the syntheses."""
    own = {file_digest(path) for path in visible(run, "*_generator.safetensors")}
    known = sorted({one for weights in used for one in weights})
    theirs = [one for one in known if one[1] in own]
    if not known:
        return "Whether this run's weights made the results on this page is not recorded."
    if not theirs:
        return f"The results on this page are not this run's: they were made by {_named(known)}."
    if len(theirs) < len(known) or () in used:
        return f"Of the weights that made the results on this page, only {_named(theirs)} is of this run."
    return "This run's weights made the results on this page."
