"""The anatomy's numbers, in one table: sizes in mm, angles in degrees, densities in HU.

Sources. Bodies: rounded after Panjabi 1991 and Zindrick 1987 (the sacrum and the transverse and articular
processes by proportion). Wedge angles by sex, adjacent-height ratios and lumbar discs: population CT studies
of healthy spines. Trabecular density: L1 attenuation against age, 226 HU (SD 44) below 30 years, 89 (SD 38)
from 90. Densities of soft tissue and voxel noise: clinical CT (SD 20-40 HU at 3 mm and a smooth kernel to
100-180 at 1 mm and a sharp one).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Level:
    """One vertebral level. Sizes in mm; the wedge is positive where the front is lower."""

    name: str
    label: int  # VerSe's; 0 where the phantom shows the bone but no mask names it
    width: float
    depth: float
    height_posterior: float
    wedge_women_deg: float
    wedge_men_deg: float
    pedicle_width: float
    pedicle_height: float
    canal_depth: float
    canal_width: float
    transverse_span: float  # midline to tip
    spinous_length: float  # posterior body wall to tip, along the process
    spinous_drop_deg: float  # below the horizontal of the body
    spinous_height: float
    disc_below_anterior: float
    disc_below_posterior: float


# caudal to cranial: the stack grows from the sacrum
LEVELS: tuple[Level, ...] = (
    Level("S1", 0, 51, 34, 29, -2.0, 0.0, 20, 20, 15, 31, 50, 34, 25, 16, 0.0, 0.0),
    Level("L5", 24, 50, 37, 26, -7.8, -4.6, 16, 15, 16.5, 28, 45, 45, 12, 15, 18.7, 8.5),
    Level("L4", 23, 47, 36, 26.5, -3.1, -0.7, 12.5, 15, 16.5, 26, 44, 51, 8, 20, 18.1, 10.1),
    Level("L3", 22, 44, 35, 27, -1.1, 1.3, 10, 15, 16.5, 25, 47, 53, 6, 22, 15.2, 9.1),
    Level("L2", 21, 42, 34, 26, 0.7, 2.6, 8.8, 15, 16.5, 24.5, 43, 52, 6, 21, 13.1, 8.6),
    Level("L1", 20, 40, 33, 25, 2.6, 4.1, 8.2, 15.5, 17, 24, 37, 51, 8, 20, 10.8, 7.3),
    Level("T12", 19, 37, 32, 24, 3.5, 4.9, 7.5, 15.5, 17, 23, 27, 48, 14, 17, 7.6, 6.4),
    Level("T11", 18, 34, 30, 23, 4.6, 5.4, 7.5, 15, 16, 21, 26, 47, 24, 14, 6.4, 5.8),
    Level("T10", 17, 32, 29, 22.5, 2.6, 3.8, 6.3, 14, 15.5, 19, 30, 48, 34, 11, 5.2, 5.1),
    Level("T9", 16, 31, 28, 22, 2.8, 4.8, 6.0, 13.5, 15.5, 18, 32, 50, 44, 10, 4.6, 4.7),
    Level("T8", 15, 30, 27, 21.5, 3.2, 4.9, 5.8, 12.5, 15.5, 18, 33, 53, 50, 9, 4.4, 4.5),
    Level("T7", 0, 29, 26, 21, 3.4, 4.8, 5.8, 12, 15.5, 17.5, 34, 54, 52, 9, 4.2, 4.3),
    Level("T6", 0, 28, 25, 20.5, 3.4, 4.6, 5.5, 11.5, 15.5, 17.5, 34, 54, 52, 9, 4.1, 4.2),
)
LABELLED = tuple(level.label for level in LEVELS if level.label)

# persons
AGE_YEARS = (35.0, 90.0)
SEX_SCALE = {"female": 0.955, "male": 1.045}  # women 8-9 % smaller
PERSON_SCALE_SD = 0.05
PERSON_WEDGE_SD_DEG = 1.0
HEIGHT_NOISE_SD = 0.0325  # per level: the ratio of adjacent posterior heights then has an SD of 0.044
WEDGE_NOISE_SD_DEG = 1.25  # per level: the anterior ratio then has an SD of 0.059
SIZE_NOISE_SD = 0.02  # width and depth
DISC_NOISE_SD = 0.10
LORDOSIS_SCALE_SD = 0.13
THORACIC_KYPHOSIS_DEG = (0.5, 2.0)  # of each thoracic disc, on top of the vertebrae's own wedges
CHORD_TILT_SD_DEG = 3.0  # of the line from L5 to T8 against the vertical
SCOLIOSIS_SD_DEG = 1.2  # per disc, at the apex of a smooth curve

# bodies
CONCAVITY_UPPER = (0.6, 1.4)
CONCAVITY_LOWER = (1.0, 2.0)
WAIST = (0.08, 0.14)
POSTERIOR_HOLLOW = {"thoracic": 0.10, "lumbar": 0.06}

# bone
TRABECULAR_AT_30_HU = 226.0
TRABECULAR_LOSS_PER_YEAR_HU = 2.28
TRABECULAR_SD_HU = 32.0
TRABECULAR_FLOOR_HU = 35.0
FRACTURED_CEILING_HU = 145.0  # fractured patients are mostly below
CORTEX_HU = (850.0, 1200.0)
CORTEX_MM = (0.50, 0.75)  # bodies: the shell of 0.35 mm with the dense trabeculae that lean on it
ENDPLATE_MM = (0.70, 1.05)
ARCH_CORTEX_MM = 1.4
ARCH_MARROW_HU = 170.0  # how much denser the arch's marrow is than the body's
RIPPLE_MM = 0.3  # endplates are not smooth

# soft tissue
DISC_HU = 78.0
MUSCLE_HU = 52.0
FAT_HU = -98.0
BLOOD_HU = 42.0
CONTRAST_HU = (120.0, 240.0)
EPIDURAL_HU = -35.0
CSF_HU = 18.0
CORD_HU = 38.0
LUNG_HU = -860.0
LIVER_HU = 58.0
KIDNEY_HU = 34.0
GAS_HU = -950.0
AIR_HU = -1000.0
CALCIFICATION_HU = 750.0

DISC_YIELD = (0.40, 0.65)  # how much of an endplate's tilt the spine above takes; the disc takes the rest

# fractures: where they happen (T12 and L1 most) and how much is lost
LEVEL_WEIGHT = {15: 1.4, 16: 0.8, 17: 0.8, 18: 1.2, 19: 2.2, 20: 2.6, 21: 1.5, 22: 1.2, 23: 1.0, 24: 0.7}
FRACTURE_RATE = 0.20
GRADE_SHARE = {1: 0.50, 2: 0.35, 3: 0.15}  # VerSe'19: 10, 7 and 3 % of all vertebrae
GRADE_LOSS = {1: (0.20, 0.25), 2: (0.25, 0.40), 3: (0.40, 0.62)}
KIND_WEIGHT = {"wedge": 0.50, "biconcave": 0.20, "crush": 0.15, "mixed": 0.15}
MOST_LOSS = 0.8           # of a third that may be asked for
COLUMN_LOSS_LIMIT = 0.82  # what no column exceeds: bone does not vanish
