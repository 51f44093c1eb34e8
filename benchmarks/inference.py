"""Inference: several vertebrae a pass and reading beside it, against one slice after the other.

    python benchmarks/inference.py

The plain loop does what the published inference does: for every pass of every vertebra one slice at a time
goes through the network, whose spectral norms are worked out anew each time, and the volumes are unpacked as
float64. The network of `inference_cpu` is the published one (256 columns, random weights: its cost does not
depend on them), drawn by its plain layers; that of `inference_default_cpu` is the shipped one, both planes
fused. Both sides share whatever turns what was drawn into volumes.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.comparison import Row, Settings, run_benchmark, seconds
from benchmarks.phantom_data import PhantomData, phantom_data
from util.cli import run_script
from util.paths import fake_ct, fake_label, straightened_ct, straightened_label
from util.steps import ROOT
from util.vertebrae import split_case

if TYPE_CHECKING:
    from models.case_synthesis import SynthesisSettings
