"""helical-refine: a filament, its twist and rise refined with the poses."""

from __future__ import annotations

from dataclasses import dataclass

from protomer.config.settings import Input, Job, setting
from protomer.declarations.refine import RefineSettings


@dataclass(frozen=True)
class HelicalRefineSettings(RefineSettings):
    """Settings of `helical-refine`."""

    helical_twist: float | None = setting(None, "turn from one subunit to the next, right-handed positive (required)", unit="deg")
    helical_rise: float | None = setting(None, "distance along the axis from one subunit to the next (required)", unit="A")
    twist_range: float = setting(6.0, "the twist is looked for within this of the given one", unit="deg", minimum=0.01, maximum=90.0)
    rise_range: float | None = setting(None, "the rise is looked for within this of the given one; unset: a tenth of it", unit="A",
                                       minimum=0.001)
    start_lattices: str = setting(
        "auto", "several lattices within twist_range and rise_range are tried on a few images, and the refinement goes on from the one "
        "that foretells unseen images best: where there is no --volume (auto), always (many), never (one)", choices=("auto", "many", "one"))
    start_twist_step: float | None = setting(None, "how far apart in twist they are; unset: what moves the filament's surface at the ends "
                                             "of the central part by start_detail", unit="deg", minimum=0.05)
    start_rise_step: float | None = setting(None, "how far apart in rise; unset: what moves those ends by a third of start_detail",
                                            unit="A", minimum=0.005)
    start_detail: float = setting(8.0, "finest detail by which they are compared; finer tells more lattices apart, and takes longer",
                                  unit="A", minimum=3.0, maximum=30.0)
    start_images: int = setting(200, "images on which they are tried, of whole filaments, as many of each half-set", minimum=40)
    start_passes: int = setting(6, "passes over these images from each of the best third; the others get four", minimum=5, maximum=30)
    refine_lattice: bool = setting(True, "refine twist and rise; off: impose them as given")
    central_fraction: float = setting(0.5, "share of the box along the axis whose subunits are averaged", minimum=0.1, maximum=0.7)
    outer_diameter: float | None = setting(None, "of the filament: references are 0 beyond; unset: as wide as the start volume's density",
                                           unit="A", minimum=1.0)
    inner_diameter: float = setting(0.0, "of a hollow filament: references are 0 within", unit="A", minimum=0.0)
    tilt_prior: float = setting(5.0, "standard deviation of the tilt about 90°, or about rlnAngleTiltPrior where the particles have it",
                                unit="deg", minimum=0.1, maximum=45.0)
    psi_prior: float = setting(10.0, "standard deviation of psi about rlnAnglePsiPrior; without such a column psi is free", unit="deg",
                               minimum=0.1, maximum=180.0)
    use_priors: bool = setting(True, "take rlnAngleTiltPrior and rlnAnglePsiPrior from the particles, where they have them")
    keep_polarity: bool = setting(False, "rlnAnglePsiPrior tells the filaments' polarity too; off: both ways round are tried")
    mask_mode: str = setting("none", "mask on the references: only the cylinder, one made from the map as it improves, or the given one",
                             choices=("dynamic", "static", "none"))
    align_to_symmetry: bool = setting(False, "without effect: a filament's axis must lie along z in the start volume")


JOB = Job(
    name="helical-refine",
    summary="Poses, twist and rise, half maps and FSC of a filament",
    teaches="The refinement of `refine` for filaments whose axis is z. In each iteration the images are inserted once, twist and rise are "
    "read from the half maps so made (each half's own self-correlation under turns and moves; the halves share these two numbers and "
    "nothing else), and are imposed in real space on references and final maps from the subunits of the central part. Poses are looked "
    "for with the tilt near 90°, psi near its prior where there is one, any rot, and shifts along the axis within half a rise. "
    "Start near the right twist and rise: a map can look right under a wrong lattice, and the report lists those that look alike; the "
    "sign of the twist is that of the map's hand, which no image tells. Without --volume a cylinder of outer_diameter is the start, "
    "and several lattices within twist_range and rise_range of the given one are refined on a few images first and scored by images that "
    "their maps have not seen; heed start_lattice_not_told, which names those that the images do not tell apart. "
    "The half-sets must keep filaments whole: import with --set split_by=filament. With --symmetry Cn or Dn that group is imposed as "
    "well (2-fold of Dn on x). helix.yaml, for symmetry-expand and reconstruct, holds what was found: "
    "protomer symmetry-expand --particles helix --volume helix --config helix/helix.yaml --output copies . "
    "Example: protomer helical-refine --particles imported --set helical_twist=65deg --set helical_rise=3.2A --set outer_diameter=70A "
    "--output helix",
    inputs=(
        Input("particles", "particles.h5 or a job folder; every row with its filament", file="particles.h5", required=True),
        Input("volume", "initial volume with the filament along z, .mrc or volume.h5 or a job folder; unset: a cylinder", file="volume.h5",
              alternatives=(".mrc", ".map", ".h5")),
        Input("mask", "mask for mask_mode static, .mrc", file="mask.mrc", alternatives=(".map",)),
        Input("symmetry", "point group besides the helix: C1, Cn or Dn", file=None, default="C1"),
        Input("axes", "convention of the group's axes: relion, cryosparc or scipy", file=None, default="relion"),
    ),
    settings=HelicalRefineSettings,
    entry="protomer.jobs.helical_refine",
    ranks=True,
    cuda=True,
)
