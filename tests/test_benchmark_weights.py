"""Which weights a benchmark's report says that it judged."""

import hashlib
from pathlib import Path

from evaluation.benchmark import build_parser
from evaluation.scoreboard import course
from evaluation.scoreboard.page import provenance, provenance_line
from models.checkpoint import save_generator
from models.generator import build_generator
from util.paths import read_json, write_json
from util.steps import ROOT


def write_generator(folder: Path, plane: str) -> Path:
    """Write an untrained generator as a run of its own does."""
    path = folder / plane / "best_generator.safetensors"
    save_generator(path, build_generator(ngf=4),
                   {"plane": plane, "crop_cols": 128, "attention": "heatmap"})
    return path


def test_weights_are_named_by_their_use(tmp_path):
    """Two planes bear one file name; the baselines are those that were asked."""
    planes = [write_generator(tmp_path, plane) for plane in ("coronal", "sagittal")]
    model = tmp_path / "fitted ones" / "baselines.json"
    write_json(model, {})
    args = build_parser().parse_args(["--checkpoint", str(planes[0]), "--checkpoint_coronal", str(planes[1])])
    steps = [("fit", "evaluation/baselines.py --fit_only"),
             ("ask", course.command("evaluation/baselines.py", "--split", "val", "--model", model))]
    found = provenance(args, steps)["weights"]
    assert list(found) == ["coronal", "sagittal", "classifier", "baselines"]
    for use, path in zip(found, [*planes, args.classifier, model], strict=True):
        assert found[use] == {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    assert "baselines" not in provenance(args, steps[:1])["weights"]


def test_the_documentation_names_the_weights_of_its_report():
    report = read_json(ROOT / "docs" / "benchmark.json")
    assert provenance_line(report) in (ROOT / "docs" / "benchmark.md").read_text(encoding="utf-8")
