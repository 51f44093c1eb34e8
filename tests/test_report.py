"""The page of a run: sections for what is there, pictures beside it, nothing for what is not."""

import json
import re

import numpy as np
import pytest
from box_spine import AFFINE, HEIGHTS, BoxCohort, box_case, write_box_cohort

from evaluation import RHLV_quantification, SVM_grading
from evaluation.page.pictures import outlined_slice
from evaluation.page.style import loss_tint
from evaluation.page.truth import covered_losses
from evaluation.page.writing import number, with_interval
from evaluation.report import main
from evaluation.rhlv.uncertainty import Origin, fit_calibration
from util.cli import run_script
from util.paths import fake_ct, fake_label, write_json
from util.vertebrae import split_case
from util.volume import Volume, write_volume

SECTIONS = ("training", "generation", "grading", "grading-fracture", "vertebrae")
PRESSED = {"p0_20": 20, "p1_20": 14, "p2_20": 13, "p3_20": 12}


@pytest.fixture(scope="module")
def boxes(tmp_path_factory) -> BoxCohort:
    """One fracture per patient, synthesized without it; nothing measured yet."""
    folder = tmp_path_factory.mktemp("report")
    boxes = write_box_cohort(folder, patients=4, labels=(19, 20), fractures=PRESSED)
    for case, rows in boxes.healthy_rows.items():
        label = split_case(case)[1]
        ct, labels = box_case(label, rows - HEIGHTS[label], {}, seed=1)
        write_volume(fake_ct(folder / "output", case), Volume(ct, AFFINE))
        write_volume(fake_label(folder / "output", case), Volume(labels, AFFINE))
    return boxes


def flags_of(boxes: BoxCohort) -> list[str]:
    return [f"--cohort={boxes.path}", f"--output={boxes.path.parent / 'output'}"]


def write_page(boxes: BoxCohort, *extra: str) -> str:
    assert main([*flags_of(boxes), f"--dataroot={boxes.dataroot}", *extra]) == 0
    return (boxes.path.parent / "output" / "report" / "index.html").read_text(encoding="utf-8")


def test_a_page_grows_with_the_stages(boxes):
    output = boxes.path.parent / "output"
    bare = write_page(boxes)
    assert "not a medical device" in bare and 'id="cohort"' in bare
    assert not any(f'id="{section}"' in bare for section in SECTIONS)
    assert RHLV_quantification.main([*flags_of(boxes), f"--dataroot={boxes.dataroot}"]) == 0
    for classes in ("fracture", "genant"):
        assert SVM_grading.main([f"--output={output}", f"--classes={classes}", "--resamples=20"]) == 0
    measure = {"mean": 0.912, "low": 0.85, "high": 0.95, "undefined": 0}
    write_json(output / "generation" / "generation.json",
               {"split": "val", "healthy_max_grade": 0, "vertebrae": 3, "patients": 2,
                "measures": {"dice": measure, "height_difference_absolute": measure | {"mean": 0.031}}})
    log = [{"step": 10, "kind": "losses", "total": 3.0}, {"step": 10, "kind": "validation", "body_dice": 0.5}]
    checkpoint = boxes.path.parent / "some_run"
    checkpoint.mkdir()
    (checkpoint / "log.jsonl").write_text("\n".join(map(json.dumps, log)))
    page = write_page(boxes, f"--checkpoint={checkpoint}")
    assert all(f'id="{section}"' in page for section in SECTIONS)
    assert "0.912 (0.850 to 0.950)" in page and "3.1 %" in page and "some_run" in page
    assert 'src="scatter.png"' in page and 'src="fracture/scatter.png"' in page
    assert all(f'id="{case}"' in page for case in boxes.healthy_rows)
    assert '"Segoe UI"' in page  # the style is not escaped


def test_every_picture_of_the_page_lies_beside_it(boxes):
    RHLV_quantification.main([*flags_of(boxes), f"--dataroot={boxes.dataroot}"])
    page = write_page(boxes)
    folder = boxes.path.parent / "output" / "report"
    sources = re.findall(r'src="([^"]+)"', page)
    assert len(sources) >= 3 * len(boxes.healthy_rows)
    assert all((folder / source).is_file() for source in sources)


def test_a_picture_of_an_earlier_measurement_is_not_shown(boxes):
    RHLV_quantification.main([*flags_of(boxes), f"--dataroot={boxes.dataroot}"])
    assert 'src="maps/p1_20.png"' in write_page(boxes)
    picture = boxes.path.parent / "output" / "RHLV" / "maps" / "p1_20.png"
    picture.unlink()
    page = write_page(boxes)
    assert 'src="maps/p1_20.png"' not in page and 'src="curves/p1_20.png"' in page
    RHLV_quantification.main([*flags_of(boxes), f"--dataroot={boxes.dataroot}"])
    assert picture.is_file() and 'src="maps/p1_20.png"' in write_page(boxes)


def test_cards_are_limited_to_the_largest_losses(boxes):
    RHLV_quantification.main([*flags_of(boxes), f"--dataroot={boxes.dataroot}"])
    folder = boxes.path.parent / "output" / "report" / "slices"
    for picture in folder.glob("*.jpg"):
        picture.unlink()
    write_page(boxes, "--max_cards=2")
    worst = sorted(PRESSED, key=lambda case: PRESSED[case] / boxes.healthy_rows[case])[:2]
    assert {picture.stem for picture in folder.glob("*.jpg")} == set(worst)


@pytest.mark.parametrize(("flag", "message"), [("--output", "run eval_3d_sagittal_twostage.py"),
                                               ("--checkpoint", "expected a run of train.py")])
def test_wrong_folders_are_told_in_one_line(boxes, tmp_path, capsys, flag, message):
    arguments = [*flags_of(boxes), f"{flag}={tmp_path / 'nowhere'}"]
    assert run_script(lambda argv=None: main(arguments)) == 2
    said = capsys.readouterr()
    assert message in said.err and len(said.err.splitlines()) == 1
    assert not said.out  # before any work


def test_an_empty_folder_gives_no_page(boxes, tmp_path, capsys):
    arguments = [f"--cohort={boxes.path}", f"--output={tmp_path}"]
    assert run_script(lambda argv=None: main(arguments)) == 2
    told = capsys.readouterr().err
    assert "found none; run eval_3d_sagittal_twostage.py and evaluation/RHLV_quantification.py first" in told
    assert not list(tmp_path.iterdir())


def test_the_target_is_outlined_in_its_colour_and_neighbours_in_grey():
    ct, labels = box_case(20, 0, {}, seed=0)
    picture = outlined_slice(ct, labels, 20, "#ff0000")
    red = (picture[:, :, 2] > 200) & (picture[:, :, 1] < 60)
    rows = np.flatnonzero(red.any(axis=1))
    assert picture.shape == (288, 256, 3)
    assert abs((rows[-1] - rows[0]) / 2 - HEIGHTS[20]) <= 2  # two pixels a mm
    assert (picture.min(axis=2) > 215).any()


def test_phantoms_are_compared_with_their_truth(boxes, tmp_path):
    RHLV_quantification.main([*flags_of(boxes), f"--dataroot={boxes.dataroot}"])
    assert 'id="truth"' not in write_page(boxes, f"--raw={tmp_path}")
    for patient in ("p0", "p1"):
        case = f"{patient}_20"
        before, now = boxes.healthy_rows[case], PRESSED[case]
        write_json(tmp_path / patient / "truth" / "truth.json", {"vertebrae": {"20": {
            "height_before_mm": [before] * 3, "height_after_mm": [now - 2] * 3,
            "loss_by_third": [1 - now / before] * 3}}})
    page = write_page(boxes, f"--raw={tmp_path}")
    assert 'id="truth"' in page and "2 vertebrae of 2 phantom patients" in page
    assert page.count("2.00 (2.00 to 2.00); 2.00") == 3      # each third's height now is 2 mm above the truth
    assert page.count("0.00 (0.00 to 0.00); 0.00") >= 3      # height before
    assert (boxes.path.parent / "output" / "report" / "truth.png").is_file()


def test_intervals_that_hold_the_truth_are_counted():
    row = {f"rhlv_{third}_{end}": limit for third in ("anterior", "middle", "posterior")
           for end, limit in (("low", 0.1), ("high", 0.3))}
    rows = [row, row, row | {"in_calibration": True}, {}]
    true = np.array([[0.2, 0.3, 0.31], [0.0, 0.0, 0.0], [0.2, 0.2, 0.2], [0.2, 0.2, 0.2]])
    covered, healthy = covered_losses(true, rows)
    assert covered.tolist() == [[True, True, False], [False, False, False]]
    assert healthy.tolist() == [False, True]


def test_vertebrae_show_their_intervals(boxes, tmp_path):
    origin = Origin("other.json", "", tuple(f"q{number}_20" for number in range(20)))
    residuals = np.linspace(-0.1, 0.1, 20)[:, None] * np.ones(4)
    fit_calibration(1.0 - np.exp(-residuals), np.zeros((20, 4)), origin, 0.9).save(tmp_path / "kept.json")
    flags = [*flags_of(boxes), f"--dataroot={boxes.dataroot}", "--no_figures"]
    assert RHLV_quantification.main([*flags, f"--calibration={tmp_path / 'kept.json'}"]) == 0
    page = write_page(boxes)
    RHLV_quantification.main([*flags, "--calibration=none"])
    bare = write_page(boxes)
    assert "Under each loss its 90 % interval, from 20 healthy vertebrae of 20 patients (other.json)" in page
    assert "90 % interval (%)" in page and 'class="interval"' in page and "P(grade ≥ 1, 2, 3) = " in page
    assert "calibrated" not in bare and 'class="interval"' not in bare


def test_numbers_as_text():
    assert number(None) == number(float("nan")) == "–"
    assert number(-12.34, 1, " %") == "−12.3 %"
    assert with_interval(0.5, None, None) == "0.500"
    assert with_interval(None, None, None) == "undefined"
    assert "220,38,38" in loss_tint(0.3) and "37,99,235" in loss_tint(-0.3) and loss_tint(float("nan")) == ""


def test_a_case_without_ct_fails_alone(boxes, capsys):
    RHLV_quantification.main([*flags_of(boxes), f"--dataroot={boxes.dataroot}"])
    missing = fake_ct(boxes.path.parent / "output", "p0_19")
    content = missing.read_bytes()
    missing.unlink()
    try:
        assert main([*flags_of(boxes), f"--dataroot={boxes.dataroot}", "--overwrite"]) == 1
    finally:
        missing.write_bytes(content)
    assert f"p0_19 failed: {missing}" in capsys.readouterr().err
    page = boxes.path.parent / "output" / "report" / "index.html"
    assert 'id="p0_20"' in page.read_text(encoding="utf-8")
