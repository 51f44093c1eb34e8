"""Measures of a synthesized vertebra against the original, and intervals from resampling patients.

Everything here is a pure function of arrays. Images are uint8 on the scale of `util.volume` (0..255 is
HU -300..800), masks are anything whose non-zero voxels count. A measure that is undefined is NaN.
"""

from collections.abc import Callable, Sequence

import numpy as np

INTENSITY_RANGE = 255.0
SSIM_SIGMA = 1.5  # Gaussian window of 11 x 11 pixels, weights of Wang et al. 2004


def dice(first: np.ndarray, second: np.ndarray) -> float:
    """Dice coefficient of two masks of one shape, 0..1; NaN where both are empty."""
    first, second = np.asarray(first, bool), np.asarray(second, bool)
    total = int(first.sum()) + int(second.sum())
    return 2.0 * int((first & second).sum()) / total if total else float("nan")


def iou(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of two masks of one shape, 0..1; NaN where both are empty."""
    first, second = np.asarray(first, bool), np.asarray(second, bool)
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else float("nan")


def relative_difference(synthetic: float, original: float) -> float:
    """(synthetic - original) / original, signed; NaN where the original is zero or undefined."""
    return (synthetic - original) / original if original else float("nan")


def relative_volume_difference(synthetic: np.ndarray, original: np.ndarray) -> float:
    """Signed difference of two masks' voxel counts as a fraction of the original's."""
    return relative_difference(float(np.count_nonzero(synthetic)), float(np.count_nonzero(original)))


def relative_height_difference(synthetic_mm: float, original_mm: float) -> float:
    """Signed difference of two heights in mm as a fraction of the original's."""
    return relative_difference(synthetic_mm, original_mm)


def psnr(synthetic: np.ndarray, original: np.ndarray, band: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB over the voxels of `band`, with 255 as the peak.

    The three arrays have one shape. Infinite where the images agree, NaN where the band is empty.
    """
    from skimage.metrics import peak_signal_noise_ratio

    band = np.asarray(band, bool)
    if not band.any():
        return float("nan")
    first, second = np.asarray(original)[band], np.asarray(synthetic)[band]
    if np.array_equal(first, second):
        return float("inf")
    return float(peak_signal_noise_ratio(first.astype(np.float32), second.astype(np.float32),
                                         data_range=INTENSITY_RANGE))


def ssim(synthetic: np.ndarray, original: np.ndarray, band: np.ndarray) -> float:
    """Structural similarity of sagittal slices, averaged over the voxels of `band`.

    Arrays are (rows, columns, slices). The similarity map is made on whole slices `[:, :, z]` with a Gaussian
    window (sigma 1.5, 11 x 11 pixels, population covariance: Wang et al. 2004), then averaged inside the
    band, so the empty frame around it does not count. NaN where the band is empty.
    """
    from skimage.metrics import structural_similarity

    band = np.asarray(band, bool)
    values = []
    for index in np.flatnonzero(band.any(axis=(0, 1))):
        _, similarity = structural_similarity(
            original[:, :, index], synthetic[:, :, index], data_range=INTENSITY_RANGE, full=True,
            gaussian_weights=True, sigma=SSIM_SIGMA, use_sample_covariance=False,
        )
        values.append(similarity[band[:, :, index]])
    return float(np.concatenate(values).mean()) if values else float("nan")


def bootstrap_patients(
    statistic: Callable[..., float],
    arrays: Sequence[np.ndarray],
    patients: Sequence[str],
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of a statistic under resampling of whole patients.

    Vertebrae of one patient are not independent, so patients are drawn with replacement and bring all their
    rows along. `arrays` have the same first dimension as `patients`; `statistic(*arrays)` is called on their
    resampled rows and may return NaN where it is undefined: such draws are left out. With fewer than two
    patients, or no defined draw, the interval is (NaN, NaN).
    """
    undefined = float("nan"), float("nan")
    names, owner = np.unique(np.asarray(patients), return_inverse=True)
    if len(names) < 2:
        return undefined
    rows_of = [np.flatnonzero(owner == number) for number in range(len(names))]
    columns = [np.asarray(array) for array in arrays]
    generator = np.random.default_rng(seed)
    draws = []
    for _ in range(resamples):
        rows = np.concatenate([rows_of[number] for number in generator.integers(len(names), size=len(names))])
        draws.append(statistic(*(column[rows] for column in columns)))
    defined = np.asarray(draws, float)
    defined = defined[np.isfinite(defined)]
    if not len(defined):
        return undefined
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def finite_mean(values: np.ndarray) -> float:
    """Mean of the finite values; NaN where there is none."""
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else float("nan")


def bootstrap_interval(
    values: Sequence[float] | np.ndarray, patients: Sequence[str], seed: int = 0, resamples: int = 1000
) -> tuple[float, float]:
    """95 % interval of the mean of one value per row, from resampling patients (see `bootstrap_patients`)."""
    columns = [np.asarray(values, float)]
    return bootstrap_patients(finite_mean, columns, patients, resamples=resamples, seed=seed)
