"""Do the half maps describe the images that they are to be taken from? Measured on a sample of each half-set, before anything is written.

Whitened images X are compared with views of the part that stays (K) and of the part that goes (R), both without any weight:
(1) X = a K + b R + noise, least squares: a and b are near 1 where the map was made from these images at these poses, noise or none,
    since a reconstruction is the least-squares solution itself (less near where images are few and the support cuts their noise)
(2) the same for X less what is taken: b is then what remains of the rest
(3) X against views of half the difference of the half maps, mostly noise: near 1 where X is one of the images whose noise that is; -1
    where the half-sets were exchanged; 0 where the maps come from other images or another split
(4) contrast: spread of the images' own slopes against K + R beyond what noise gives (DerSimonian & Laird 1986, Control. Clin. Trials 7,
    177, eq. 8)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from protomer.errors import InputError
from protomer.running.events import Events
from protomer.subtraction.maps import Density
from protomer.subtraction.views import Views, refined_images, usable_length
from protomer.tables.particles import Particles
from protomer_kernels.half_plane import HalfPlane, largest_radius, transform_images
from protomer_kernels.slices import transform_volume

LEAST_SIGMAS, LEAST_SLOPE, MOST_SLOPE, ODD_SLOPE = 5.0, 0.5, 2.0, 0.2
EXCHANGED, OTHERS, LARGEST_NOISE_ERROR = -0.25, 0.25, 0.1
LEAST_NOISE = 0.25  # of the images' power, for eq. (3)
UNEVEN_CONTRAST = 0.2
WELL_AGREED, LEAST_RADIUS = 0.5, 4  # the FSC down to which (1) and (2) reach


@dataclass(frozen=True)
class Fit:
    """What a sample of one half-set says. kept, rest: a and b of eq. (1); rest_error: standard deviation of b; remaining: b of eq. (2);
    sigmas: by how many the images fit the map at their poses better than at one another's; own_noise and its error: eq. (3), error
    infinite where the half maps hardly differ; contrast: eq. (4), relative; rest_by_shell, remaining_by_shell: b shell by shell."""

    images: int
    kept: float
    rest: float
    rest_error: float
    remaining: float
    sigmas: float
    own_noise: float
    own_noise_error: float
    contrast: float
    rest_by_shell: np.ndarray
    remaining_by_shell: np.ndarray

    @property
    def is_own_noise_known(self) -> bool:
        """Whether eq. (3) says anything."""
        return self.own_noise_error < LARGEST_NOISE_ERROR


def fit_sample(particles: Particles, rows: np.ndarray, density: Density, half: int, workers: int) -> Fit:
    """Eqs. (1) to (4) for some rows of one half-set."""
    plane = HalfPlane(density.box, largest_radius(density.box))
    agreed = np.flatnonzero(density.weight < WELL_AGREED)
    radius = min(max(int(agreed[0]) - 1 if len(agreed) else plane.radius, LEAST_RADIUS), plane.radius)
    length = usable_length(particles, plane, radius)
    images = transform_images(refined_images(particles, rows, density.box, {}), plane, workers)
    others = Views(particles, rows, plane, length, np.roll(rows, len(rows) // 2))
    own = Views(particles, rows, plane, length)

    def fourier(data: np.ndarray) -> np.ndarray:
        return transform_volume(data, radius, workers=workers)

    kept_ft, rest_ft = fourier(density.kept[half]), fourier(density.rest[half])
    kept, rest, elsewhere = own.of(kept_ft), own.of(rest_ft), others.of(kept_ft) + others.of(rest_ft)
    taken, data = own.of(fourier(density.removed[half])), images[:, :length]
    shell, shells = plane.shell[:length], radius + 1
    root = 1.0 / np.sqrt(0.5 * _noise(data - kept - rest, shell, shells))[shell]
    root[0] = 0.0
    data, kept, rest, elsewhere, taken = (part * root for part in (data, kept, rest, elsewhere, taken))
    gram = np.array([[_products(p, q, shell, shells) for q in (kept, rest)] for p in (kept, rest)])
    before, after = (np.array([_products(x, p, shell, shells) for p in (kept, rest)]) for x in (data, data - taken))
    total = _solved(gram.sum(axis=2), before.sum(axis=1))
    whole = kept + rest
    better = _products(data, whole - elsewhere, shell, shells).sum()
    spread = np.sqrt(sum(_products(p, p, shell, shells).sum() for p in (whole, elsewhere)))
    noise_slope, noise_error = _own_noise(particles, rows, density, half, (plane, images, workers))
    return Fit(
        len(rows), float(total[0]), float(total[1]), float(np.sqrt(np.linalg.pinv(gram.sum(axis=2))[1, 1])),
        float(_solved(gram.sum(axis=2), after.sum(axis=1))[1]), float(better / max(spread, 1e-30)), noise_slope, noise_error,
        _contrast(data, whole),
        *(np.array([_solved(gram[..., s], x[:, s])[1] for s in range(1, shells)]) for x in (before, after)),
    )


def require_fit(fits: tuple[Fit, Fit], is_subtracted: bool, events: Events) -> None:
    """Raise InputError where the maps plainly do not describe the images; warn where they do so oddly."""
    source = "give the volume.h5 of the job that the particles come from, or one that `protomer reconstruct` makes from them"
    worst = min(fits, key=lambda fit: fit.sigmas)
    if worst.sigmas < LEAST_SIGMAS:
        raise InputError(f"the images do not agree with the map at their poses better than at one another's ({worst.sigmas:.1f} standard "
                         "deviations)", "the map that these poses made, in the same frame", source)
    for fit in fits:
        low, high = fit.rest - 3 * fit.rest_error, fit.rest + 3 * fit.rest_error
        if high < LEAST_SLOPE:
            raise InputError(f"the images hold {fit.rest:.2f} times the density that is to be taken: taking it would leave more than there "
                             f"was{' (something was taken from these images before)' if is_subtracted else ''}",
                             "images that hold the density outside the mask, on the grey scale of the map", source)
        if low > MOST_SLOPE:
            raise InputError(f"the images hold {fit.rest:.2f} times the density that is to be taken", "a map on the images' grey scale",
                             source)
        if fit.is_own_noise_known and fit.own_noise + 3 * fit.own_noise_error < EXCHANGED:
            raise InputError(f"the half-sets are exchanged: images hold {fit.own_noise:.2f} times the noise of their own half map, so it "
                             "is that of the other half's images", "the half maps of these half-sets, in their order", source)
    _warn_of_fit(fits, events)


def _warn_of_fit(fits: tuple[Fit, Fit], events: Events) -> None:
    odd = [fit for fit in fits if abs(fit.rest - 1) > ODD_SLOPE + 3 * fit.rest_error]
    if odd:
        events.warn("grey_scale", f"the images hold {' and '.join(f'{fit.rest:.2f}' for fit in fits)} times the density that is taken (by "
                    "half-set), where 1 is expected: some will remain; make the map anew from these particles with `protomer reconstruct`")
    known = [fit for fit in fits if fit.is_own_noise_known]
    if any(fit.own_noise + 3 * fit.own_noise_error < OTHERS for fit in known):
        said = " and ".join(f"{fit.own_noise:.2f}" for fit in known)
        events.warn("other_images", f"the half maps' noise is not that of these images ({said} of it, where 1 is expected): the maps were "
                    "made from other images, other poses or another split into halves, and what is written is gold standard only if no "
                    "image has gone into the other half's map")


def warn_of_contrast(fits: tuple[Fit, Fit], scale: np.ndarray, events: Events) -> None:
    """Warn where images differ in grey scale and the table says nothing of it."""
    contrast = float(np.mean([fit.contrast for fit in fits]))
    if np.all(scale == 1.0) and contrast > UNEVEN_CONTRAST:
        events.warn("no_scale", f"the images' grey scales differ by {100 * contrast:.0f} % (standard deviation, noise apart) and the table "
                    f"has none (scale is 1 throughout): about {100 * contrast**2:.0f} % of the power of what is taken remains, now "
                    "positive, now negative")


def _noise(residual: np.ndarray, shell: np.ndarray, shells: int) -> np.ndarray:
    """Mean power of each shell, (shells,), never zero."""
    power = np.bincount(shell, np.square(np.abs(residual)).mean(axis=0, dtype=np.float64), minlength=shells)
    mean = power / np.maximum(np.bincount(shell, minlength=shells), 1)
    return np.asarray(np.maximum(mean, 1e-12 * mean.max() + 1e-30))


def _products(one: np.ndarray, other: np.ndarray, shell: np.ndarray, shells: int) -> np.ndarray:
    """sum Re(one* other) by shell, (shells,) float64."""
    return np.bincount(shell, (one.conj() * other).real.sum(axis=0, dtype=np.float64), minlength=shells)


def _solved(gram: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The two slopes; that of a part which is not there is zero."""
    return np.asarray(np.linalg.pinv(gram, rcond=1e-9, hermitian=True) @ right)


def _own_noise(
    particles: Particles, rows: np.ndarray, density: Density, half: int, known: tuple[HalfPlane, np.ndarray, int]
) -> tuple[float, float]:
    """Eq. (3) and its standard deviation, over all shells; known: plane, the images' coefficients, workers."""
    plane, data, workers = known
    own, other = (density.kept[h] + density.rest[h] for h in (half, 1 - half))
    difference = 0.5 * (own - other)
    if not difference.any():
        return 0.0, np.inf
    length = usable_length(particles, plane, plane.radius)
    views = Views(particles, rows, plane, length).of(transform_volume(difference, plane.radius, workers=workers))
    mean = Views(particles, rows, plane, length).of(transform_volume(0.5 * (own + other), plane.radius, workers=workers))
    shell, shells = plane.shell[:length], plane.radius + 1
    rest = data[:, :length] - mean
    if np.square(np.abs(rest)).sum() < LEAST_NOISE * np.square(np.abs(data)).sum():
        return 0.0, np.inf  # images without noise to speak of: the half maps differ in what their views left out
    root = 1.0 / np.sqrt(0.5 * _noise(rest, shell, shells))[shell]
    root[0] = 0.0
    power = _products(views * root, views * root, shell, shells).sum()
    return float(_products(rest * root, views * root, shell, shells).sum() / max(power, 1e-30)), float(1.0 / np.sqrt(max(power, 1e-30)))


def _contrast(data: np.ndarray, whole: np.ndarray) -> float:
    """Eq. (4), over the mean slope; 0 where there is no spread beyond the noise."""
    weight = np.square(np.abs(whole)).sum(axis=1, dtype=np.float64)
    slope = (data.conj() * whole).real.sum(axis=1, dtype=np.float64) / np.maximum(weight, 1e-30)
    mean = float((weight * slope).sum() / weight.sum())
    excess = float((weight * (slope - mean) ** 2).sum()) - (len(weight) - 1)
    variance = excess / float(weight.sum() - np.square(weight).sum() / weight.sum())
    return float(np.sqrt(max(variance, 0.0)) / max(abs(mean), 1e-9))
