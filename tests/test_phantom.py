"""The embedded cohort: what is commanded is what the files hold."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phantom import anatomy
from phantom.cohort_plan import patient_names, plan_fractures, plan_splits
from phantom.columns import column_table, genant_grade, third_heights, third_losses
from phantom.make_cohort import main
from phantom.patient import Order, draw_bodies, draw_collapse, draw_person, fractured
from phantom.scanner import draw_scan, lay_grid
from phantom.stack import Spine
from phantom.vertebra import Collapse, Vertebra
from phantom.write_patient import Patient, draw_patient, scan_spine
from util.errors import InputError
from util.paths import raw_ct, raw_mask, read_json
from util.vertebrae import LABELS, read_cohort
from util.volume import read_ct, read_ct_and_mask, read_mask

ORDERS = [Order(18, 2, 0.3), Order(20, 3, 0.5), Order(22, 1, 0.22)]
COARSE_MM = np.full(3, 2.0)


def person_of(seed: int):
    return draw_person(np.random.default_rng(seed), 1)


def coarse_patient(codes: str = "LPS", turned: bool = False) -> Patient:
    patient = draw_patient(5, 0, "phantom-s5-000", ORDERS)
    turn = draw_scan(np.random.default_rng(3), 3).turn if turned else np.eye(3)
    scan = replace(patient.scan, codes=codes, spacing_mm=COARSE_MM, turn=turn, field_mm=(110.0, 160.0))
    grid = lay_grid(scan, patient.person.healthy, patient.spine)
    return replace(patient, scan=scan, grid=grid, noise_hu=np.zeros(grid.shape, np.float32))


def label_centroids(patient: Patient, mask: np.ndarray) -> dict[int, np.ndarray]:
    affine = patient.grid.affine
    return {label: affine[:3, :3] @ np.argwhere(mask == label).mean(axis=0) + affine[:3, 3]
            for label in anatomy.LABELLED}


@given(seed=st.integers(0, 10_000), index=st.integers(1, 10), loss=st.floats(0.2, 0.62))
@settings(max_examples=40, deadline=None)
def test_the_commanded_loss_is_exact(seed, index, loss):
    body = person_of(seed % 7).healthy.vertebrae[index].body
    collapsed = Vertebra(body, draw_collapse(np.random.default_rng(seed), body, loss))
    assert third_losses(collapsed).max() == pytest.approx(loss, abs=1e-9)
    x, y = np.meshgrid(np.linspace(-12.0, 12.0, 9), np.linspace(body.front, body.back, 9))
    lower, upper = body.endplates(x, y)
    lower_now, upper_now = collapsed.endplates(x, y)
    expected = (upper - lower) * (1.0 - collapsed.loss(x, y))
    np.testing.assert_allclose(upper_now - lower_now, expected, rtol=1e-9)


def test_the_grade_follows_genant_from_the_third_that_loses_most():
    assert [genant_grade(loss) for loss in (0.0, 0.199, 0.2, 0.249, 0.25, 0.399, 0.4, 0.6)] == [
        0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("kind, third", [("wedge", 0), ("biconcave", 1)])
def test_a_kind_takes_its_own_third(kind, third):
    body = person_of(1).healthy.vertebrae[5].body
    drawn = (draw_collapse(np.random.default_rng(seed), body, 0.3) for seed in range(60))
    losses = [third_losses(Vertebra(body, one)) for one in drawn if one.kind == kind]
    assert losses and all(int(np.argmax(one)) == third for one in losses)


def test_a_crush_takes_every_third():
    body = person_of(1).healthy.vertebrae[5].body
    drawn = (draw_collapse(np.random.default_rng(seed), body, 0.3) for seed in range(60))
    losses = [third_losses(Vertebra(body, one)) for one in drawn if one.kind == "crush"]
    assert losses and all(one.min() > 0.2 for one in losses)


def test_what_stands_below_a_fracture_stays_and_what_stands_above_follows():
    healthy = person_of(2).healthy
    index = next(i for i, one in enumerate(healthy.vertebrae) if one.level.label == 20)
    crush = Collapse("crush", {"crush": 1.0}, lean=0.0, upper_share=0.75, disc_yield=0.5, scale=0.4)
    vertebrae = list(healthy.vertebrae)
    vertebrae[index] = Vertebra(vertebrae[index].body, crush)
    now = Spine(tuple(vertebrae), healthy.discs, healthy.base)
    below = [np.allclose(a, b) for a, b in zip(healthy.poses[:index], now.poses[:index], strict=True)]
    assert all(below)
    steps = [step_up(healthy, now, i) for i in range(len(now.poses) - 1)]
    lost = 0.35 * vertebrae[index].body.height_posterior  # a crush takes 0.35 of 0.4 at the posterior rim
    assert steps[index][2, 3] == pytest.approx(-0.75 * lost, rel=0.25)
    assert steps[index - 1][2, 3] == pytest.approx(-0.25 * lost, rel=0.25)
    assert all(np.allclose(steps[i], 0.0, atol=1e-9) for i in {*range(len(steps))} - {index - 1, index})


def step_up(healthy: Spine, now: Spine, i: int) -> np.ndarray:
    """How the pose of vertebra i + 1, seen from vertebra i, has changed."""
    first, second = (np.linalg.inv(spine.poses[i]) @ spine.poses[i + 1] for spine in (healthy, now))
    return second - first


@pytest.mark.parametrize("seed", range(6))
def test_bodies_never_touch(seed):
    rng = np.random.default_rng(seed)
    labels = rng.choice(anatomy.LABELLED, 4, replace=False)
    spine = fractured(rng, person_of(seed).healthy, [Order(int(label), 3, 0.5) for label in labels])
    assert smallest_gap(spine) > 1.5


def smallest_gap(spine: Spine) -> float:
    gaps = []
    for i in range(len(spine.vertebrae) - 1):
        below, above = spine.vertebrae[i:i + 2]
        grid = np.linspace(-1.0, 1.0, 15)
        x, y = (part.ravel() for part in np.meshgrid(0.5 * above.body.width * grid, above.body.back * grid))
        inside = above.body.radius(x, y) < 0.97
        lower = above.endplates(x, y)[0]
        points = np.linalg.inv(spine.poses[i]) @ spine.poses[i + 1] @ np.stack([x, y, lower, np.ones_like(x)])
        inside &= below.body.radius(points[0], points[1]) < 0.97
        gaps.append(float((points[2] - below.endplates(points[0], points[1])[1])[inside].min()))
    return min(gaps)


def test_adjacent_heights_vary_as_measured():
    persons = (draw_bodies(np.random.default_rng(seed), "female") for seed in range(150))
    heights = np.array([[body.height_posterior for body in bodies] for bodies in persons])
    ratios = heights[:, :-1] / heights[:, 1:]
    assert (ratios - ratios.mean(axis=0)).std() == pytest.approx(0.044, abs=0.004)


def test_the_mask_measures_the_commanded_heights():
    patient = coarse_patient(turned=True)  # oblique, so that voxels fall evenly above and below endplates
    mask = scan_spine(patient, patient.spine)[2]
    for pose, vertebra in zip(patient.spine.poses, patient.spine.vertebrae, strict=True):
        if vertebra.level.label:
            measured = middle_height(patient, mask, pose, vertebra)
            assert measured == pytest.approx(float(third_heights(vertebra)[1][1]), abs=0.4)


def middle_height(patient: Patient, mask: np.ndarray, pose: np.ndarray, vertebra: Vertebra) -> float:
    """Mean height of the middle third's central columns: the share of random points that the mask holds."""
    body, rng = vertebra.body, np.random.default_rng(0)
    share = rng.random((3, 40_000))
    x, z = 0.4 * body.width * (share[0] - 0.5), 40.0 * (share[2] - 0.5)
    y = body.front + body.depth * (1.0 + share[1]) / 3.0
    points = np.linalg.inv(patient.grid.to_world) @ pose @ np.stack([x, y, z, np.ones_like(x)])
    i, j, k = np.rint(points[:3]).astype(int)
    return 40.0 * float((mask[i, j, k] == vertebra.level.label).mean())


def test_the_same_anatomy_in_every_orientation():
    straight, turned = coarse_patient("LPS"), coarse_patient("PIR", turned=True)
    first = label_centroids(straight, scan_spine(straight, straight.spine)[2])
    second = label_centroids(turned, scan_spine(turned, turned.spine)[2])
    assert all(np.linalg.norm(first[label] - second[label]) < 0.5 for label in anatomy.LABELLED)


def test_the_mask_holds_the_arch_and_ct_shows_bone_there():
    patient = coarse_patient("RAS")
    hu, mask, body = scan_spine(patient, patient.spine)
    assert set(np.unique(mask)) == {0, *anatomy.LABELLED}
    assert np.array_equal(mask[body > 0], body[body > 0])
    for label in anatomy.LABELLED:
        assert 0.3 < (mask == label).sum() / (body == label).sum() - 1.0 < 2.0
    assert hu[mask > body].mean() > 250.0 > hu[body > 0].mean() > 50.0 > hu[mask == 0].mean()


def test_plan_has_the_prevalence_and_every_split_every_grade():
    orders = plan_fractures(np.random.default_rng(0), 40, 0.2)
    grades = [order.grade for one in orders for order in one]
    assert [grades.count(grade) for grade in (1, 2, 3)] == [40, 28, 12]
    splits = plan_splits(np.random.default_rng(0), orders)
    assert [splits.count(split) for split in ("train", "test", "val")] == [20, 10, 10]
    for split in ("train", "test", "val"):
        held = [one for one, where in zip(orders, splits, strict=True) if where == split]
        assert {order.grade for one in held for order in one} == {1, 2, 3}


def test_names_of_two_seeds_never_meet():
    assert not set(patient_names(1, 30)) & set(patient_names(11, 30))


def test_cohort_file_agrees_with_the_truth(phantoms):
    cohort = read_cohort(phantoms / "cohort.json")
    assert len(cohort.grades) == 30 and sum(grade > 0 for grade in cohort.grades.values()) == 9
    for patient in cohort.patients():
        record = read_json(phantoms / "raw" / patient / "truth" / "truth.json")["vertebrae"]
        assert {f"{patient}_{label}": one["grade"] for label, one in record.items()} == {
            case: grade for case, grade in cohort.grades.items() if case.startswith(patient)}


def test_a_list_of_other_patients_is_not_lost(tmp_path):
    path = tmp_path / "cohort.json"
    path.write_text('{"train": {"mine_20": 0}}')
    with pytest.raises(InputError, match="mine"):
        main(["--patients", "1", "--out", str(tmp_path / "raw"), "--cohort", str(path)])
    assert read_cohort(path).cases() == ["mine_20"] and not (tmp_path / "raw").exists()


def test_every_file_is_there_and_agrees(phantoms):
    for name in patient_names(11, 3):
        raw = phantoms / "raw"
        folder = raw / name
        ct, mask = read_ct_and_mask(raw_ct(raw, name), raw_mask(raw, name))
        assert ct.array.dtype == np.int16 and set(np.unique(mask.array)) - {0} <= set(LABELS)
        healthy, body = read_ct(folder / "truth/healthy.nii.gz"), read_mask(folder / "truth/body.nii.gz")
        before = read_mask(folder / "truth/healthy_body.nii.gz")
        assert healthy.array.shape == body.array.shape == before.array.shape == ct.array.shape
        columns, curve = np.load(folder / "truth/columns.npz"), np.load(folder / "truth/curve.npz")
        for label in anatomy.LABELLED:
            after = columns[f"{label}_before_mm"] * (1.0 - columns[f"{label}_loss"])
            np.testing.assert_allclose(after, columns[f"{label}_after_mm"])
        steps = np.linalg.norm(np.diff(curve["points_after_ras"], axis=0), axis=1)
        np.testing.assert_allclose(steps, 1.0, atol=0.01)


def test_the_same_seed_writes_the_same_bytes_and_a_second_run_skips(phantoms, tmp_path, capsys):
    arguments = ["--patients", "3", "--seed", "11", "--fracture_rate", "0.3"]
    raw = phantoms / "raw"
    kept = raw_ct(raw, patient_names(11, 3)[0])
    stamp = kept.stat().st_mtime_ns
    raw_mask(raw, patient_names(11, 3)[1]).rename(tmp_path / "mask.nii.gz")
    before = {path: path.read_bytes() for path in (raw / patient_names(11, 3)[1]).rglob("*.nii.gz")}
    assert main(["--out", str(raw), "--cohort", str(phantoms / "cohort.json"), *arguments]) == 0
    assert "1 done, 2 skipped" in capsys.readouterr().out and kept.stat().st_mtime_ns == stamp
    assert all(path.read_bytes() == content for path, content in before.items())
    again = raw_mask(raw, patient_names(11, 3)[1])
    assert again.read_bytes() == (tmp_path / "mask.nii.gz").read_bytes()


def test_column_table_ends_at_the_rim():
    vertebra = Vertebra(person_of(0).healthy.vertebrae[3].body)
    table = column_table(vertebra)
    area = np.isfinite(table.loss).sum()
    assert 0.7 < area / (vertebra.body.width * vertebra.body.depth) < 1.0
    assert np.nanmax(table.loss) == 0.0


def test_an_impossible_rate_is_one_line(tmp_path):
    with pytest.raises(InputError, match="--fracture_rate"):
        main(["--out", str(tmp_path), "--cohort", str(tmp_path / "c.json"), "--fracture_rate", "0.9"])
