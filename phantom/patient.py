"""Chance, apart from work: draws a person, the fractures and the scan that a seed means."""

from dataclasses import dataclass, replace

import numpy as np

from phantom import anatomy
from phantom.anatomy import LEVELS, Level
from phantom.columns import third_losses
from phantom.stack import Disc, Spine, rotation
from phantom.vertebra import Body, Collapse, Vertebra


@dataclass(frozen=True)
class Tissue:
    """What a person's bone and vessels are like."""

    trabecular_hu: float
    cortex_hu: float
    cortex_mm: float
    endplate_mm: float
    blood_hu: float
    kidney_hu: float
    calcification: float  # 0..1, share of the aortic wall
    fat_mm: float  # below the skin
    muscle_fat: float  # 0..1, share of fat within muscle


@dataclass(frozen=True)
class Person:
    """A person before any fracture."""

    age_years: float
    sex: str
    healthy: Spine
    tissue: Tissue


@dataclass(frozen=True)
class Order:
    """A fracture that the cohort's plan asks for."""

    label: int
    grade: int
    loss: float  # of the third that loses most
    kind: str | None = None  # of anatomy.KIND_WEIGHT; None to draw it


def draw_person(rng: np.random.Generator, fractures: int) -> Person:
    """Draw a person; those with fractures are older and their bone is weaker."""
    youngest, oldest = anatomy.AGE_YEARS
    age = youngest + (oldest - youngest) * rng.beta(1.6 + 0.9 * min(fractures, 4), 1.8)
    sex = "female" if rng.random() < (0.5 if fractures == 0 else 0.65) else "male"
    bodies = draw_bodies(rng, sex)
    discs = _draw_discs(rng, bodies)
    spine = Spine(tuple(Vertebra(body) for body in bodies), discs, np.eye(4))
    tilt = anatomy.CHORD_TILT_SD_DEG * rng.standard_normal()
    return Person(age, sex, _upright(spine, tilt), _draw_tissue(rng, age, fractures))


def draw_bodies(rng: np.random.Generator, sex: str) -> list[Body]:
    """Draw every level's body: the table times a person's scale, with a level's own noise."""
    scale = anatomy.SEX_SCALE[sex] * float(np.exp(anatomy.PERSON_SCALE_SD * rng.standard_normal()))
    wedge = anatomy.PERSON_WEDGE_SD_DEG * rng.standard_normal()
    waist = rng.uniform(*anatomy.WAIST)
    dishes = rng.uniform(*anatomy.CONCAVITY_UPPER), rng.uniform(*anatomy.CONCAVITY_LOWER)
    return [_draw_body(rng, level, scale, sex, wedge, waist, dishes) for level in LEVELS]


def _draw_body(rng: np.random.Generator, level: Level, scale: float, sex: str, person_wedge_deg: float,
               waist: float, dishes: tuple[float, float]) -> Body:
    """Draw one body."""
    noise = np.exp(np.array([anatomy.SIZE_NOISE_SD, anatomy.SIZE_NOISE_SD, anatomy.HEIGHT_NOISE_SD])
                   * rng.standard_normal(3))
    width, depth, height = scale * noise * (level.width, level.depth, level.height_posterior)
    table_deg = level.wedge_women_deg if sex == "female" else level.wedge_men_deg
    wedge_deg = table_deg + person_wedge_deg + anatomy.WEDGE_NOISE_SD_DEG * rng.standard_normal()
    anterior = height - 2.0 * depth * np.tan(np.radians(0.5 * wedge_deg))
    dish_upper, dish_lower = np.array(dishes) * rng.uniform(0.75, 1.25, 2)
    return Body(level, width, depth, anterior, height, dish_upper, dish_lower,
                waist * rng.uniform(0.9, 1.1), rng.uniform(0.0, 2.0 * np.pi, 4).tolist())


def _draw_discs(rng: np.random.Generator, bodies: list[Body]) -> tuple[Disc, ...]:
    """Draw the discs from the sacrum upwards, with a person's lordosis and a slight scoliosis."""
    lordosis = float(np.exp(anatomy.LORDOSIS_SCALE_SD * rng.standard_normal()))
    kyphosis_deg = rng.uniform(*anatomy.THORACIC_KYPHOSIS_DEG)
    bend = anatomy.SCOLIOSIS_SD_DEG * rng.standard_normal()
    phase = rng.uniform(0.0, 2.0 * np.pi)
    discs = []
    for i, above in enumerate(bodies[1:]):
        level = above.level
        noise = float(np.exp(anatomy.DISC_NOISE_SD * rng.standard_normal()))
        front, back = level.disc_below_anterior * noise, level.disc_below_posterior * noise
        if level.name.startswith("T"):
            front -= above.depth * np.tan(np.radians(kyphosis_deg))
        else:
            front = back + (front - back) * lordosis
        lateral_deg = bend * np.cos(phase + 2.0 * np.pi * i / len(bodies))
        discs.append(Disc(max(front, 2.5), max(back, 2.5), lateral_deg))
    return tuple(discs)


def _upright(spine: Spine, tilt_deg: float) -> Spine:
    """Turn the whole spine until the line from its lowest to its highest vertebra tilts as drawn."""
    line = (spine.poses[-1] - spine.poses[0])[:3, 3]
    sideways_deg = np.degrees(np.arctan2(line[0], line[2]))
    forwards_deg = np.degrees(np.arctan2(-line[1], line[2]))
    turn = rotation(0, tilt_deg - forwards_deg) @ rotation(1, -sideways_deg)
    return replace(spine, base=turn @ spine.base)


def _draw_tissue(rng: np.random.Generator, age: float, fractures: int) -> Tissue:
    """Draw densities: trabecular bone falls with age, aortic calcification grows."""
    mean_hu = anatomy.TRABECULAR_AT_30_HU - anatomy.TRABECULAR_LOSS_PER_YEAR_HU * max(age - 30.0, 0.0)
    bone_hu = max(mean_hu + anatomy.TRABECULAR_SD_HU * rng.standard_normal(), anatomy.TRABECULAR_FLOOR_HU)
    if fractures:
        bone_hu = min(bone_hu, anatomy.FRACTURED_CEILING_HU * rng.uniform(0.5, 1.05))
    contrast_hu = rng.uniform(*anatomy.CONTRAST_HU) if rng.random() < 0.4 else anatomy.BLOOD_HU
    return Tissue(
        trabecular_hu=bone_hu, cortex_hu=rng.uniform(*anatomy.CORTEX_HU),
        cortex_mm=rng.uniform(*anatomy.CORTEX_MM), endplate_mm=rng.uniform(*anatomy.ENDPLATE_MM),
        blood_hu=contrast_hu, kidney_hu=anatomy.KIDNEY_HU + 0.8 * (contrast_hu - anatomy.BLOOD_HU),
        calcification=float(np.clip(rng.normal((age - 55.0) / 60.0, 0.15), 0.0, 0.6)),
        fat_mm=rng.uniform(10.0, 38.0), muscle_fat=float(np.clip((age - 40.0) / 120.0, 0.0, 0.4)))


def draw_collapse(rng: np.random.Generator, body: Body, loss: float, kind: str | None = None) -> Collapse:
    """Draw a fracture of one body whose most affected third loses exactly `loss` of its height."""
    kind = kind or str(rng.choice(list(anatomy.KIND_WEIGHT), p=list(anatomy.KIND_WEIGHT.values())))
    collapse = draw_pattern(rng, kind)
    return replace(collapse, scale=0.1 * loss / max(third_losses(Vertebra(body, collapse))))


def draw_pattern(rng: np.random.Generator, kind: str) -> Collapse:
    """Draw the pattern of a fracture, at a scale of 0.1 (slight, so that no column meets its limit)."""
    share = rng.uniform(0.6, 0.95) if kind == "wedge" else rng.uniform(0.5, 0.75)
    return Collapse(kind, _draw_parts(rng, kind), lean=rng.uniform(-0.12, 0.12), upper_share=share,
                    disc_yield=rng.uniform(*anatomy.DISC_YIELD), scale=0.1)


def _draw_parts(rng: np.random.Generator, kind: str) -> dict[str, float]:
    """Draw how much of each pattern a kind is made of."""
    if kind == "mixed":
        weights = rng.dirichlet([2.0, 2.0, 2.0])
        return dict(zip(("wedge", "biconcave", "crush"), weights.tolist(), strict=True))
    other = {"wedge": "crush", "biconcave": "crush", "crush": "wedge"}[kind]
    minor = rng.uniform(0.02, 0.18)
    return {kind: 1.0 - minor, other: minor}


def fractured(rng: np.random.Generator, spine: Spine, orders: list[Order]) -> Spine:
    """Return the spine with the ordered fractures; it stands on the same sacrum."""
    by_label = {order.label: order for order in orders}

    def broken(one: Vertebra) -> Vertebra:
        order = by_label.get(one.level.label)
        return replace(one, collapse=draw_collapse(rng, one.body, order.loss, order.kind)) if order else one

    return replace(spine, vertebrae=tuple(broken(one) for one in spine.vertebrae))
