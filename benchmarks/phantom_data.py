"""A small phantom cohort for the speed benchmarks, made once by the project's own commands."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from util.steps import ROOT, Step, run_steps
from util.vertebrae import read_cohort

PATIENTS = 4
SEED = 900


@dataclass(frozen=True)
class PhantomData:
    """Where its files lie."""

    root: Path

    @property
    def raw(self) -> Path:
        """CTs and masks."""
        return self.root / "raw"

    @property
    def cohort(self) -> Path:
        """The list of cases."""
        return self.root / "cohort.json"

    @property
    def dataroot(self) -> Path:
        """Straightened cases."""
        return self.root / "straightened"

    @property
    def heatmaps(self) -> Path:
        """Evidence of fracture, by the shipped classifier."""
        return self.root / "heatmap"

    def cases(self) -> list[str]:
        """Return every case of the cohort."""
        return read_cohort(self.cohort).cases()


def phantom_data(scratch: Path, jobs: int) -> PhantomData:
    """Return a straightened cohort with heatmaps, about ten vertebrae a patient, making what is missing."""
    data = PhantomData((scratch / "phantom").absolute())
    raw, dataroot, cohort = (shlex.quote(str(path)) for path in (data.raw, data.dataroot, data.cohort))
    steps: list[Step] = [
        ("Make phantom patients", f"phantom/make_cohort.py --out {raw} --cohort {cohort} --jobs {jobs} "
         f"--patients {PATIENTS} --seed {SEED} --scanner isotropic"),
        ("Find the centre of each vertebral body",
         f"straighten/location_json_local.py --raw {raw} --cohort {cohort} --jobs {jobs}"),
        ("Straighten the spines",
         f"straighten/straighten_mask_3d.py --raw {raw} --out {dataroot} --cohort {cohort} --jobs {jobs}"),
        ("Map the evidence of fracture",
         f"Attention/grad_CAM_3d_sagittal.py --dataroot {dataroot} --cohort {cohort} --jobs {jobs} "
         f"--out {shlex.quote(str(data.heatmaps))} --checkpoint weights/phantom_classifier.safetensors"),
    ]
    run_steps(steps, ROOT)
    return data
