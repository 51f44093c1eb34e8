"""Published weights: the same input gives the same output; a file that does not fit is refused by name."""

import pickle

import pytest
import torch
from box_scan import BODY_COLUMNS, CANDIDATES, SHAPE, Drawn, box_scan
from box_spine import write_box_cohort
from published_oracle import published_forward, random_published_input, random_published_state
from test_slice_input import COLUMNS, ROWS, raw_slices

from data.slice_input import CONVENTIONS, SliceInput, build_inference_input
from models.checkpoint import load_generator
from models.generator import build_generator
from models.iterative_inference import restore_vertebra
from models.plane_model import PlaneModel, prepare_for_inference
from models.published_generator import SPARE_ROWS
from models.published_weights import import_published, read_state
from models.shared_passes import run_alone
from models.slice_generation import Scan, generate_plane
from util.cli import run_script
from util.errors import InputError
from util.geometry import GAP_ROWS, gap_top, row_extent
from util.import_published import main
from util.paths import fake_label, straightened_label
from util.volume import Volume, read_volume, write_volume

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def state():
    return random_published_state()


@pytest.fixture(scope="module")
def weights(state, tmp_path_factory):
    """The state as a generator on several GPUs leaves it."""
    path = tmp_path_factory.mktemp("published") / "latest_net_G.pth"
    torch.save({f"module.{name}": value for name, value in state.items()}, path)
    return path


@pytest.fixture(scope="module")
def checkpoint(weights, tmp_path_factory):
    """The coronal plane, whose slices are the smaller ones."""
    folder = tmp_path_factory.mktemp("checkpoints")
    assert main([f"--weights={weights}", f"--checkpoints_dir={folder}", "--plane=coronal"]) == 0
    return folder / "published" / "best_generator.safetensors"


def saved(tmp_path, content):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    return path


def assert_same(output, expected, tolerance):
    for name, value in expected.items():
        torch.testing.assert_close(getattr(output, name), value, rtol=0, atol=tolerance, msg=name)


def test_an_imported_checkpoint_gives_the_published_output(checkpoint, state):
    generator, _ = load_generator(checkpoint)
    seen = random_published_input(gap_top(256))
    expected = published_forward(state, **seen)
    for name in ("coarse_ct", "coarse_neighbours", "ct", "body"):
        assert expected[name].std() > 0.01, f"{name} says nothing"
    with torch.no_grad():
        output = prepare_for_inference(generator)(SliceInput(**seen))
    near = slice(gap_top(256) - SPARE_ROWS, gap_top(256) + GAP_ROWS + SPARE_ROWS)    # all that is drawn of it
    output = output._replace(ct=output.ct[:, :, near], body=output.body[:, :, near])
    expected |= {name: expected[name][:, :, near] for name in ("ct", "body")}
    assert_same(output, expected, 1e-4)


@pytest.mark.parametrize("rows", [64, 80, 176, 256])
def test_the_decoder_sees_all_that_counts_for_the_gap(rows):
    """To float64: each layer of it looks at what lies beside a row, and none as far as the margin's end."""
    torch.manual_seed(rows)
    generator = build_generator("published", ngf=4).double().eval()
    gap = torch.zeros(1, 1, rows, 16, dtype=torch.float64)
    gap[:, :, gap_top(rows):gap_top(rows) + GAP_ROWS] = 1.0
    seen = SliceInput(torch.rand_like(gap) * 2 - 1, gap, torch.zeros(1).double(), torch.rand_like(gap))
    near = slice(max(0, gap_top(rows) - SPARE_ROWS), gap_top(rows) + GAP_ROWS + SPARE_ROWS)
    with torch.no_grad():
        whole = generator(seen)
        generator.fine_generator.draws_gap_alone = True
        narrow = generator(seen)
    for one, other in zip(whole, narrow, strict=True):
        assert one.shape == other.shape
    for name in ("ct", "body"):
        one, other = getattr(whole, name), getattr(narrow, name)
        torch.testing.assert_close(one[:, :, near], other[:, :, near], rtol=0, atol=1e-12, msg=name)
        assert rows < 176 or not torch.equal(one, other)


@pytest.mark.parametrize(("top", "weaker"), [(72, 0.0), (81, 0.4)])
def test_the_published_forward_pass_to_float64(state, top, weaker):
    """So close that no step can differ, on a part of the image. The gap begins on a sampled row or between
    two; matches are strong, or so weak that the patches of the gap take their share.
    """
    exact = {name: value.double() for name, value in state.items()}
    exact["fine_generator.pmconv6.conv.bias"] -= weaker
    part = {name: value.double() if name == "distance" else value[:, :, 64:144, :32].double()
            for name, value in random_published_input(top, seed=top).items()}
    generator = build_generator("published").double().eval()
    generator.load_state_dict(exact)
    with torch.no_grad():
        assert_same(generator(SliceInput(**part)), published_forward(exact, **part), 1e-9)


def test_the_checkpoint_says_what_it_is(checkpoint, state):
    generator, settings = load_generator(checkpoint)
    kept = generator.state_dict()
    assert set(kept) == set(state) and all(torch.equal(kept[name], value) for name, value in state.items())
    assert settings == {"plane": "coronal", "crop_cols": 256, "attention": "heatmap",
                        "convention": "published", "height_prior": None,
                        "training": {"imported_from": "latest_net_G.pth"}}


def test_the_published_convention_of_the_input():
    raw = raw_slices([110, 113], [141, 134])._replace(distance=torch.tensor([-0.5, 0.25]))
    seen = build_inference_input(raw, CONVENTIONS["published"])
    first = gap_top(ROWS)
    assert first == 108 and seen.distance.tolist() == [0.5, 0.25]
    for sample, (top, bottom) in enumerate([(110, 141), (113, 134)]):
        ct, attention = (raw.ct[sample, 0] / 127.5 - 1, 1 - raw.heatmap[sample, 0] / 255)
        for shown, image in ((seen.masked_ct, ct), (seen.attention, attention)):
            above, below = shown[sample, 0, :first], shown[sample, 0, first + GAP_ROWS:]
            assert torch.allclose(above, image[top - 108:top], atol=1e-6)    # 108 rows: all there are
            assert torch.allclose(below, image[bottom:bottom + 108], atol=1e-6)
    hidden = seen.gap > 0
    assert hidden.sum() == 2 * GAP_ROWS * COLUMNS
    assert (seen.masked_ct[hidden] == -1).all() and (seen.attention[hidden] == 1).all()


@pytest.mark.parametrize("rows", [24, 25, 31])
def test_a_published_body_is_restored_whole(rows):
    """Published, rows a to b have the height b - a and lie where a gap centred on (a + b) // 2 has them."""

    def draw(seen):
        first = gap_top(seen.gap.shape[2]) + 20 - (rows - 1) // 2
        body = torch.zeros_like(seen.gap)
        body[:, :, first:first + rows, BODY_COLUMNS] = 1.0
        return Drawn(2 * body - 1, body, torch.full((len(body),), rows - 1.0))

    model = PlaneModel(draw, "sagittal", CPU, convention=CONVENTIONS["published"])
    result, step = run_alone(restore_vertebra(box_scan(), 20, [model]), 8)
    top, bottom = CANDIDATES[20]
    new_top = (top + bottom - rows) // 2
    assert step.rows == rows and row_extent(result.label == 20) == (new_top, new_top + rows)
    assert (result.ct[new_top:new_top + rows, 60, 30] == 255).all()


def test_a_tiny_scan_passes_through_the_checkpoint(checkpoint):
    generator, settings = load_generator(checkpoint)
    model = PlaneModel(prepare_for_inference(generator), settings["plane"], CPU,
                       convention=CONVENTIONS[settings["convention"]])
    whole = box_scan()
    scan = Scan(*(array[:, 76:84, :32].copy() for array in (whole.ct, whole.label, whole.heatmap)))
    frame = run_alone(generate_plane(scan, 20, model), 4)
    assert frame.ct.shape == frame.body.shape == (GAP_ROWS, 8, 32)
    assert frame.heights_mm.isfinite().all() and frame.body.amax() > 0 and SHAPE[0] == len(scan.ct)


def test_the_inference_script_runs_it_by_name(checkpoint, tmp_path):
    from eval_3d_sagittal_twostage import main as synthesize

    cohort = write_box_cohort(tmp_path, patients=3, labels=(20,))
    path = straightened_label(cohort.dataroot, "p2_20")
    label = read_volume(path)
    label.array[:, :126] = label.array[:, 129:] = 0                       # three coronal slices are enough
    write_volume(path, Volume(label.array, label.affine))
    folder = checkpoint.parent.parent
    assert synthesize([*cohort.flags, "--name=published", f"--checkpoints_dir={folder}", "--cases", "p2_20",
                       f"--output={tmp_path}", "--device=cpu", "--threads=1", "--iterative=none"]) == 0
    assert read_volume(fake_label(tmp_path, "p2_20")).array.shape == (256, 256, 64)


def test_every_tensor_that_does_not_fit_is_named(state, tmp_path):
    wrong = dict(state)
    del wrong["fine_generator.pmconv9.conv.weight_v"], wrong["coarse_generator.conv1.conv.bias"]
    wrong["coarse_generator.conv3.conv.weight_orig"] = torch.zeros(32, 16, 3, 3)
    wrong["coarse_generator.conv5.conv.bias"] = torch.full((64,), torch.nan)
    wrong["coarse_generator.conv6.conv.bias"] = torch.zeros(64, dtype=torch.int64)
    wrong["netD.model.0.weight"] = torch.zeros(64, 1, 4, 4)
    with pytest.raises(InputError) as caught:
        import_published(saved(tmp_path, wrong), tmp_path / "g.safetensors")
    message = str(caught.value)
    for part in ("6 that differ", "fine_generator.pmconv9.conv.weight_v: expected 576, found none",
                 "coarse_generator.conv1.conv.bias: expected 16, found none",
                 "coarse_generator.conv3.conv.weight_orig: expected 32x32x3x3, found 32x16x3x3",
                 "coarse_generator.conv5.conv.bias: expected 64, found values that are not finite",
                 "coarse_generator.conv6.conv.bias: expected 64, found values of type int64",
                 "netD.model.0.weight: expected no such tensor, found 64x1x4x4"):
        assert part in message
    assert "\n" not in message and not (tmp_path / "g.safetensors").exists()


def test_a_wrapped_state_is_taken_out(state, tmp_path):
    found = read_state(saved(tmp_path, {"epoch": 3, "state_dict": state, "optimizer": {"state": {}}}))
    assert list(found) == list(state)


@pytest.mark.parametrize(("content", "found"), [
    ({"netG": {"a": torch.zeros(1)}, "netD": {"b": torch.zeros(1)}}, "found 2 under the keys netG, netD"),
    ({"epoch": 3}, "found 0 under the keys epoch"), ([1, 2], "found list"), ({}, "found dict")])
def test_what_holds_no_single_state_is_refused(tmp_path, content, found):
    with pytest.raises(InputError, match=found):
        read_state(saved(tmp_path, content))


class Intruder:
    """Unpickled without care, it would leave a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("archive", [True, False])
def test_a_pickle_with_code_is_refused_unrun(tmp_path, archive):
    path, content = tmp_path / "weights.pth", {"a": Intruder(tmp_path / "trace")}
    if archive:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(InputError, match=r"tensors alone, found one that would run '\w*\.?open'"):
        read_state(path)
    assert not (tmp_path / "trace").exists()


def test_missing_and_damaged_files_are_told_apart(weights, tmp_path):
    with pytest.raises(InputError, match=r"none\.pth: expected .* found no file; check --weights"):
        read_state(tmp_path / "none.pth")
    for content in (b"", b"<html>", weights.read_bytes()[:5000]):
        (tmp_path / "bad.pth").write_bytes(content)
        with pytest.raises(InputError, match=r"bad\.pth: expected a state dict .* damaged"):
            read_state(tmp_path / "bad.pth")


def test_a_checkpoint_is_replaced_only_by_request(weights, tmp_path, capsys):
    target = tmp_path / "mine" / "best_generator.safetensors"
    target.parent.mkdir()
    target.write_bytes(b"a training of days")
    flags = [f"--weights={weights}", "--name=mine", f"--checkpoints_dir={tmp_path}"]
    assert run_script(lambda argv=None: main(flags)) == 2
    assert "found one; choose another --name" in capsys.readouterr().err
    assert target.read_bytes() == b"a training of days"
    assert main([*flags, "--attention=none", "--overwrite"]) == 0
    assert load_generator(target)[1]["attention"] == "none"


def test_a_name_that_is_a_path_is_refused(weights, tmp_path):
    with pytest.raises(InputError, match="--name 'a/b'"):
        main([f"--weights={weights}", "--name=a/b", f"--checkpoints_dir={tmp_path}"])
