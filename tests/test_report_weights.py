"""What the page says of the weights behind its results, and of a training run that is shown beside them."""

import hashlib
from pathlib import Path

import pytest
from dominate import document

from evaluation.page.weights import add_weights, relation, weights_used
from models.synthesis_records import record_path
from util.paths import write_json

CASES = ("a_20", "b_20", "c_20")


def write_run(folder: Path, content: bytes) -> dict[str, str]:
    """Write the weights of a run; return how a record names them."""
    folder.mkdir()
    path = folder / "best_generator.safetensors"
    path.write_bytes(content)
    return {"file": f"{folder.name}/{path.name}", "sha256": hashlib.sha256(content).hexdigest()}


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, dict[str, str]]:
    """Two runs, and how records name their weights."""
    return {name: write_run(tmp_path / name, name.encode()) for name in ("mine", "other")}


def write_records(output: Path, *weights: list[dict[str, str]]) -> None:
    """Write one record a case."""
    for case, named in zip(CASES, weights, strict=False):
        write_json(record_path(output, case), {"recipe": "abc"} | ({"weights": named} if named else {}))


@pytest.mark.parametrize(("made_by", "said"), [
    ([["mine"], ["mine"]], "This run's weights made the results"),
    ([["other"], ["other"]], "not this run's: they were made by other/best_generator.safetensors (d9298a"),
    ([["mine", "other"]], "only mine/best_generator.safetensors"),
    ([["mine"], []], "only mine/best_generator.safetensors"),
    ([[], []], "is not recorded"),
    ([], "is not recorded"),
])
def test_a_run_is_told_apart_from_the_weights_of_the_results(tmp_path, runs, made_by, said):
    write_records(tmp_path, *([runs[name] for name in names] for names in made_by))
    assert said in relation(weights_used(CASES, tmp_path), tmp_path / "mine")


def test_a_run_that_went_on_since_has_other_weights(tmp_path, runs):
    write_records(tmp_path, [runs["mine"]])
    (tmp_path / "mine" / "best_generator.safetensors").write_bytes(b"more steps")
    assert "not this run's" in relation(weights_used(CASES, tmp_path), tmp_path / "mine")


def test_weights_are_named_with_their_digests(tmp_path, runs):
    write_records(tmp_path, [runs["mine"], runs["other"]], [runs["mine"], runs["other"]], [])
    page = document()
    with page:
        add_weights(weights_used(CASES, tmp_path))
    text = page.render(pretty=False)
    assert all(f"{one['file']} ({one['sha256'][:12]})" in text for one in runs.values())
    assert "made by an earlier version" in text and text.index(">2<") < text.index(">1<")


def test_without_a_synthesis_there_is_no_section(tmp_path):
    page = document()
    with page:
        add_weights(weights_used(CASES, tmp_path))
    assert "Weights" not in page.render(pretty=False)
