"""What a helical refinement is asked for: lattice, ranges, and what the particle table knows of its filaments."""

from __future__ import annotations

import numpy as np

from protomer.declarations.helical_refine import HelicalRefineSettings
from protomer.engine.filaments import Filaments
from protomer.errors import InputError, SettingsError
from protomer.helical.lattice import SPHERE, Lattice
from protomer.running.events import Events
from protomer.symmetry.expansion import torn_filaments
from protomer.symmetry.operator_sets import OperatorSet
from protomer.tables.particles import Particles

SMALL_TWIST_DEG, LARGE_RISE_A = 10.0, 25.0  # a twist below and a rise above are rare together
TILT_PRIOR, PSI_PRIOR = "rlnAngleTiltPrior", "rlnAnglePsiPrior"
NO_PRIOR = 999.0  # RELION's word for a prior that is not known


def lattice_of(settings: HelicalRefineSettings, width_A: float, events: Events) -> Lattice:
    """The lattice that is started from. Raises SettingsError where it is none, or none that the box can hold."""
    twist_deg, rise_A = settings.helical_twist, settings.helical_rise
    if twist_deg is None or rise_A is None:
        missing = " and no ".join(name for name, value in (("helical_twist", twist_deg), ("helical_rise", rise_A)) if value is None)
        raise SettingsError(f"no {missing}", "the twist (deg) and rise (Å) to start from, about which "
                            "twist_range and rise_range lie", "give both, roughly: others within the ranges are tried too where there is "
                            "no --volume; protomer symmetry-find --symmetry helical tells those of a map")
    if not rise_A > 0:
        raise SettingsError(f"helical_rise = {rise_A:g} Å", "a rise above 0; the sign of helical_twist says the hand",
                            "give the rise as a positive number, and a left-handed helix a negative twist")
    if not -180.0 <= twist_deg <= 180.0:
        raise SettingsError(f"helical_twist = {twist_deg:g}°", "a twist from -180 to 180°",
                            f"the same helix has a twist of {(twist_deg + 180) % 360 - 180:g}°")
    central_A = settings.central_fraction * width_A
    if rise_A > central_A:
        raise SettingsError(f"helical_rise = {rise_A:g} Å, with {central_A:.4g} Å ({settings.central_fraction:g} of the box of "
                            f"{width_A:.4g} Å) to average over", "a rise smaller than that, so that it holds a subunit",
                            "was the rise given in degrees, or the twist as rise? else take larger images, or a larger central_fraction")
    if abs(twist_deg) < SMALL_TWIST_DEG and rise_A > LARGE_RISE_A:
        events.warn("twist_and_rise_swapped", f"a twist of {twist_deg:g}° with a rise of {rise_A:g} Å is rare: were they swapped? "
                    "helical_twist is in degrees, helical_rise in Å, both from one subunit to the next")
    return Lattice(float(twist_deg), float(rise_A))


def ranges(settings: HelicalRefineSettings, lattice: Lattice, width_A: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """Twist (degrees) and rise (Å) from and to; no rise is larger than the central part. Raises SettingsError."""
    away_A = 0.1 * lattice.rise_A if settings.rise_range is None else settings.rise_range
    if away_A >= lattice.rise_A:
        raise SettingsError(f"rise_range = {away_A:g} Å about a rise of {lattice.rise_A:g} Å", "a range that ends above 0",
                            "leave rise_range unset: a tenth of the rise")
    return ((lattice.twist_deg - settings.twist_range, lattice.twist_deg + settings.twist_range),
            (lattice.rise_A - away_A, min(lattice.rise_A + away_A, settings.central_fraction * width_A)))


def require_possible(settings: HelicalRefineSettings, group: OperatorSet, width_A: float) -> None:
    """Raise SettingsError for a group that no helix along z can have, and for settings that mean nothing for a helix."""
    if np.abs(np.abs(group.rotations[:, 2, 2]) - 1).max() > 1e-9:
        raise SettingsError(f"a helix with the point group {group.name}", "C1, Cn or Dn: groups that leave the helical axis, z, in place",
                            "give --symmetry C1, Cn or Dn")
    if settings.relaxation != "none":
        raise SettingsError(f"relaxation is {settings.relaxation}", "none: a helical refinement relaxes no group",
                            "leave relaxation out; expand the result (symmetry-expand) and refine copies locally")
    if settings.align_to_symmetry:
        raise SettingsError("align_to_symmetry is on", "off: the axis of a filament must lie along z in the start volume",
                            "put it there first with protomer volume --set rotate=..., or leave --volume out")
    outer_A = settings.outer_diameter
    if outer_A is not None and not settings.inner_diameter < outer_A:
        raise SettingsError(f"inner_diameter {settings.inner_diameter:g} Å and outer_diameter {outer_A:g} Å", "inner below outer",
                            "leave inner_diameter out for a filament that is not hollow")
    if outer_A is not None and outer_A > 2 * SPHERE * width_A:
        raise SettingsError(f"outer_diameter = {outer_A:g} Å in images of {width_A:.4g} Å", f"at most {2 * SPHERE * width_A:.4g} Å",
                            "extract larger images")


def require_filaments(particles: Particles) -> None:
    """Raise InputError for rows without a filament, and for filaments with segments in both half-sets."""
    unknown = int(np.sum(particles.filament <= 0)) + int(np.sum((particles.filament > 0) & (particles.micrograph == "")))
    if unknown:
        raise InputError(f"{unknown} of {len(particles)} rows do not say their filament",
                         "a micrograph and a filament (rlnMicrographName, rlnHelicalTubeID from 1) for every row: neighbouring segments "
                         "show the same subunits, so that half-sets must keep filaments whole",
                         "import a table that was picked as filaments, or add rlnHelicalTubeID to it")
    torn = torn_filaments(particles)
    if torn:
        raise InputError(f"{torn} filaments have segments in both half-sets", "every filament in one half-set: neighbouring segments show "
                         "the same subunits, and the FSC would be too good", "import the particles again with --set split_by=filament and "
                         "--set redraw_halves=true; a map refined with the old half-sets must not be the start")


def filaments_of(particles: Particles, settings: HelicalRefineSettings) -> Filaments:
    """What the table knows of each image's filament. Raises InputError for priors that are no angles."""
    unknown = np.full(len(particles), np.nan)
    tilt_deg, psi_deg = (prior_column(particles, name) if settings.use_priors else unknown for name in (TILT_PRIOR, PSI_PRIOR))
    tilt_rad = np.deg2rad(np.where(np.isfinite(tilt_deg), tilt_deg, 90.0))
    return Filaments(tilt_rad, np.deg2rad(psi_deg), float(np.deg2rad(settings.tilt_prior)), float(np.deg2rad(settings.psi_prior)),
                     not settings.keep_polarity, 0.0, 1.0)


def prior_column(particles: Particles, name: str) -> np.ndarray:
    """A foreign column (n,) of angles in degrees, NaN where it is absent or unknown. Raises InputError."""
    column = particles.extra.get(name)
    if column is None:
        return np.full(len(particles), np.nan)
    try:
        degrees = np.asarray(column).astype(np.float64)
    except ValueError as error:
        raise InputError(f"the column {name} holds something that is no number: {error}", "angles in degrees",
                         "mend the table, or set use_priors=off") from error
    return np.where(np.abs(degrees) < NO_PRIOR, degrees, np.nan)
