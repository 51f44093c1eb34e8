"""A virtually fractured patient's files: names, what is known beside the input, and writing them."""

from pathlib import Path

from phantom.virtual_fracture import Fractured
from phantom.write_patient import truth_folder
from util.errors import InputError
from util.paths import raw_centroids, raw_ct, raw_mask, read_json, write_json
from util.volume import Volume, write_volume

SUFFIX = "-fractured"


def patient_name(ct_path: Path) -> str:
    """Return the name of the patient that a CT becomes, by its file."""
    return ct_path.name.removesuffix(".gz").removesuffix(".nii").removesuffix("_ct") + SUFFIX


def known_healthy(ct_path: Path, fractured: list[int]) -> list[int]:
    """Return the vertebrae that a truth/truth.json beside a CT calls whole, without those to be fractured.

    Raises:
        InputError: the file is there, but is no record of truth.
    """
    path = ct_path.parent / "truth" / "truth.json"
    if not path.is_file():
        return []
    try:
        vertebrae = read_json(path)["vertebrae"]
        return [int(label) for label, one in vertebrae.items()
                if one["loss"] == 0.0 and int(label) not in fractured]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{path}: expected the truth of a patient, found another form; move it away, or "
                         f"name whole vertebrae by --healthy") from error


def write_fractured(out: Path, patient: str, before: Volume, made: Fractured) -> None:
    """Write a patient in the raw layout; the record of the truth comes last.

    The record and centroids that an earlier patient of that name left are removed first: they are those of
    another mask.

    Args:
        out: folder of patients.
        patient: name.
        before: the CT that was fractured.
        made: what became of it.
    """
    truth = truth_folder(out, patient)
    (truth / "truth.json").unlink(missing_ok=True)
    raw_centroids(out, patient).unlink(missing_ok=True)
    write_volume(truth / "healthy.nii.gz", before)
    write_volume(truth / "healthy_body.nii.gz", made.bodies)
    write_volume(raw_mask(out, patient), made.mask)
    write_volume(raw_ct(out, patient), made.ct)
    write_json(truth / "truth.json", made.truth)
