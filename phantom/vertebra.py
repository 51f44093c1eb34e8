"""One vertebral body: its outline, its endplates, and what a collapse does to its columns.

Local coordinates in mm: x to the left, y backwards, z upwards; the origin is near the body's centre and stays
where it was when the body collapses. A column is all of a body above one (x, y). Each function is elementwise
over arrays, so the same formulas serve voxels, tables of truth and single points.
"""

from dataclasses import dataclass

import numpy as np

from phantom.anatomy import COLUMN_LOSS_LIMIT, POSTERIOR_HOLLOW, RIPPLE_MM, Level

ANTERIOR_POWER, POSTERIOR_POWER = 2.25, 3.2  # superellipses: round in front, square behind
DISH_EDGE, DISH_POWER = 0.94, 1.3  # the endplate's hollow ends inside the rim


@dataclass(frozen=True)
class Body:
    """A healthy body's shape. Sizes in mm."""

    level: Level
    width: float
    depth: float
    height_anterior: float
    height_posterior: float
    concavity_upper: float
    concavity_lower: float
    waist: float  # share of the width that the middle lacks
    ripple: list[float]  # phases (4,) of the endplates' unevenness

    @property
    def hollow(self) -> float:
        """Hollow of the posterior wall, as a share of the depth behind the origin."""
        return POSTERIOR_HOLLOW["thoracic" if self.level.name.startswith("T") else "lumbar"]

    @property
    def front(self) -> float:
        """Midline y of the anterior wall (negative), mm."""
        return -self.depth / (1.0 + 1.0 / (1.0 + self.hollow))

    @property
    def back(self) -> float:
        """Midline y of the posterior wall, mm."""
        return self.depth + self.front

    def radius(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return 0 on the axis, 1 on the outline of the endplates, elementwise."""
        half_width = np.float32(0.5 * self.width)
        across = np.abs(x) / half_width
        notch = np.clip(1.0 - (across / 0.55) ** 2, 0.0, None)
        along = y / np.float32(-self.front)
        behind = np.clip(along, 0.0, None)
        behind = behind * (1.0 + np.float32(self.hollow) * notch * np.clip(behind * 1.4, 0.0, 1.0))
        ahead = np.clip(-along, 0.0, None)
        in_front = (across**ANTERIOR_POWER + ahead**ANTERIOR_POWER) ** (1.0 / ANTERIOR_POWER)
        at_back = (across**POSTERIOR_POWER + behind**POSTERIOR_POWER) ** (1.0 / POSTERIOR_POWER)
        return np.where(along < 0.0, in_front, at_back)

    def rim_height(self, y: np.ndarray) -> np.ndarray:
        """Return the height between the planes of the two rims at depth y, mm."""
        slope = (self.height_posterior - self.height_anterior) / self.depth
        return self.height_posterior + slope * (y - self.back)

    def endplates(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return z of the lower and of the upper endplate at columns (x, y), mm."""
        dish = np.clip(1.0 - (self.radius(x, y) / DISH_EDGE) ** 2, 0.0, 1.0) ** DISH_POWER
        half = 0.5 * self.rim_height(y)
        lumbar = 0.25 if self.level.name.startswith("L") else 0.1  # lower hollows lie behind the middle
        lower_dish = dish * (1.0 + lumbar * np.clip(y / self.back, -1.0, 1.0))
        lower, upper = (RIPPLE_MM * np.sin(0.31 * x + a) * np.sin(0.37 * y + b)
                        for a, b in (self.ripple[:2], self.ripple[2:]))
        return -half + self.concavity_lower * lower_dish + lower, half - self.concavity_upper * dish + upper


@dataclass(frozen=True)
class Collapse:
    """A fracture: the share of its height that every column loses.

    The loss is `scale` times a smooth profile. Its parts are weights of a wedge (front), a biconcave (middle)
    and a crush (whole) pattern; `lean` lets one side lose more.
    """

    kind: str
    parts: dict[str, float]
    lean: float
    upper_share: float  # of the lost height, how much the upper endplate comes down; the rest comes up
    disc_yield: float  # 1: the neighbour follows the endplate's tilt; 0: the disc takes it up
    scale: float = 1.0

    def loss(self, body: Body, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the lost share 0..1 of each column's height, elementwise."""
        return self.loss_at(2.0 * x / body.width, (y - body.front) / body.depth)

    def loss_at(self, across: np.ndarray, along: np.ndarray) -> np.ndarray:
        """Return the lost share 0..1 of each column's height, elementwise, for a body of any size.

        Args:
            across: place in the width, -1 at the one side and 1 at the other.
            along: place in the depth, 0 in front and 1 behind.
        """
        across = np.clip(across, -1.3, 1.3)
        profile = self.lean * across + 1.0
        total = sum(weight * PROFILES[part](across, along) for part, weight in self.parts.items())
        return np.clip(self.scale * total * profile, 0.0, COLUMN_LOSS_LIMIT)


def _wedge(across: np.ndarray, along: np.ndarray) -> np.ndarray:
    """Loss in front, none behind."""
    fall = np.clip(along / 0.95, 0.0, 1.0)
    return 1.0 - fall * fall * (3.0 - 2.0 * fall)


def _biconcave(across: np.ndarray, along: np.ndarray) -> np.ndarray:
    """Loss in the middle, little at the rim."""
    distance = (across / 0.95) ** 2 + ((along - 0.53) / 0.46) ** 2
    return np.clip(1.0 - distance, 0.0, 1.0) ** 0.8 + 0.06


def _crush(across: np.ndarray, along: np.ndarray) -> np.ndarray:
    """Loss everywhere, slightly more in front and in the middle."""
    return 1.0 - 0.12 * np.clip(along, 0.0, 1.0) ** 2 - 0.05 * np.clip(across * across, 0.0, 1.0)


PROFILES = {"wedge": _wedge, "biconcave": _biconcave, "crush": _crush}


@dataclass(frozen=True)
class Vertebra:
    """A body and, where it is fractured, its collapse."""

    body: Body
    collapse: Collapse | None = None

    @property
    def level(self) -> Level:
        """The level's table entry."""
        return self.body.level

    def loss(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the lost share of each column's height, elementwise."""
        if self.collapse is None:
            return np.zeros(np.broadcast_shapes(np.shape(x), np.shape(y)), np.float32)
        return self.collapse.loss(self.body, x, y)

    def endplates(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return z of the lower and of the upper endplate, mm: their distance is h * (1 - loss), exactly."""
        lower, upper = self.body.endplates(x, y)
        if self.collapse is None:
            return lower, upper
        lost = self.loss(x, y) * (upper - lower)
        share = self.collapse.upper_share
        return lower + (1.0 - share) * lost, upper - share * lost
