"""Files of generators and runs: what survives them, and what is refused."""

from pathlib import Path

import pytest
import torch
from small_training import assert_equal

from data.slice_input import SliceInput
from models.checkpoint import load_generator, load_state, save_generator
from models.generator import build_generator
from util.errors import InputError


def test_wrong_checkpoints_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found no file"):
        load_generator(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match="expected a safetensors file"):
        load_generator(tmp_path / "bad.safetensors")
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="another network's weights"):
        load_generator(tmp_path / "other.safetensors")
    (tmp_path / "latest_state.pt").write_bytes(b"cut off")
    with pytest.raises(InputError, match="damaged file"):
        load_state(tmp_path / "latest_state.pt")


@pytest.mark.parametrize("kind", ["residual", "published"])
def test_a_generator_survives_its_file(tmp_path: Path, kind: str) -> None:
    generator = build_generator(kind, 8, False)
    described = {"plane": "coronal", "crop_cols": 64, "attention": "none"}
    save_generator(tmp_path / "g.safetensors", generator, described)
    loaded, settings = load_generator(tmp_path / "g.safetensors")
    assert_equal(dict(loaded.state_dict()), dict(generator.state_dict()))
    assert settings["plane"] == "coronal"


def test_a_generator_of_an_earlier_version_keeps_its_ways(tmp_path: Path) -> None:
    """Its file does not say whether the gap begins as the column means: then it did not."""
    generator = build_generator("residual", 4, False, column_means=False)
    del generator.arguments["column_means"]
    save_generator(tmp_path / "g.safetensors", generator,
                   {"plane": "sagittal", "crop_cols": 64, "attention": "none"})
    loaded, _ = load_generator(tmp_path / "g.safetensors")
    assert loaded.arguments == generator.arguments | {"column_means": False}
    gap = torch.ones(1, 1, 48, 16)
    with torch.no_grad():
        output = loaded(SliceInput(-gap, gap, torch.zeros(1), 0 * gap))
    assert output.ct.eq(0).all()
