"""Statistics that single outliers do not move, of values of which some are unknown (NaN or infinite)."""

import numpy as np


def quantile(values: np.ndarray, share: float, axis: int, least: int) -> np.ndarray:
    """Return a quantile of the finite values along an axis, NaN where there are fewer than `least`.

    That of `np.nanquantile`, to the bit, which goes from line to line.
    """
    finite = np.isfinite(values)
    known = np.moveaxis(np.sort(np.where(finite, values, np.nan), axis=axis), axis, 0)  # NaN comes last
    count = finite.sum(axis=axis)
    last = np.maximum(count - 1, 0)
    place = last * share
    before = np.floor(place).astype(int)
    low, high = (np.take_along_axis(known, index[None], axis=0)[0]
                 for index in (before, np.minimum(before + 1, last)))
    beyond, step = place - before, high - low
    found = np.where(beyond < 0.5, low + step * beyond, high - step * (1 - beyond))
    return np.where(count >= least, found, np.nan)


def theil_sen_slope(values: np.ndarray) -> float:
    """Return the median slope between any two of the finite values (N,) over their index, at least two.

    That of `scipy.stats.theilslopes`, to the bit, which also works out an interval and takes ten times as
    long.
    """
    places = np.flatnonzero(np.isfinite(values))
    first, second = np.triu_indices(places.size, 1)
    rise = values[places[second]] - values[places[first]]
    return float(np.median(rise / (places[second] - places[first])))
