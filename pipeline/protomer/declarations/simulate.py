"""simulate: particles with known truth, from an atomic model or a map."""

from __future__ import annotations

from dataclasses import dataclass

from protomer.config.settings import Input, Job, JobSettings, setting


@dataclass(frozen=True)
class SimulateSettings(JobSettings):
    """What is simulated."""

    number: int = setting(1000, "number of images", minimum=1)
    box: int = setting(64, "pixels along the edge of an image", unit="px", minimum=8)
    pixel_size: float = setting(3.5, "pixel size", unit="A", minimum=0.1)
    snr: float = setting(0.1, "variance of the signal, after the CTF, in the disc of radius 0.4 box over that of the noise; 0: noise alone",
                         minimum=0.0)
    bfactor: float | None = setting(None, "B-factor of all atoms, or extra one of a map; unset: 60 for a model, 0 for a map", unit="A2",
                                    minimum=0.0)
    symmetry_radius: float = setting(0.0, "how far the model is moved along x before it is copied", unit="A")
    helical_twist: float | None = setting(None, "helix of copies: turn from one to the next, right-handed positive", unit="deg")
    helical_rise: float | None = setting(None, "helix of copies: distance along z from one to the next", unit="A")
    helical_order: int | None = setting(None, "helix of copies: how many; with filament_segments as many as run through the images")
    filament_segments: int | None = setting(
        None, "images are segments of filaments, this many of each, that run through them from end to end (rlnHelicalTubeID); unset: "
        "single particles, seen from all sides", minimum=1)
    segment_step: float = setting(30.0, "distance of neighbouring segments along a filament", unit="A", minimum=0.0)
    tilt_spread: float = setting(3.0, "standard deviation of the tilt of filaments about 90 degrees", unit="deg", minimum=0.0, maximum=30.0)
    prior_error: float = setting(3.0, "standard deviation of the stated priors of tilt and psi about the truth", unit="deg", minimum=0.0)
    model_axis: str = setting("mass", "what of the model lies on z: its centre of mass, or (file) the z axis of its own coordinates, as "
                                      "models of filaments have them", choices=("mass", "file"))
    defocus_min: float = setting(8000.0, "least underfocus", unit="A")
    defocus_max: float = setting(20000.0, "greatest underfocus", unit="A")
    astigmatism: float = setting(300.0, "standard deviation of the difference of the two defoci", unit="A", minimum=0.0)
    voltage: float = setting(300.0, "acceleration voltage", unit="kV", minimum=1.0)
    spherical_aberration: float = setting(2.7, "spherical aberration", unit="mm", minimum=0.0)
    amplitude_contrast: float = setting(0.1, "amplitude contrast", minimum=0.0, maximum=1.0)
    beam_tilt: str = setting("0,0", "beam tilt x,y in mrad")
    trefoil: str = setting("0,0", "trefoil: Zernike coefficients of s^3 sin 3 phi and s^3 cos 3 phi, in rad A^3")
    tetrafoil: str = setting("0,0", "tetrafoil: Zernike coefficients of s^4 sin 4 phi and s^4 cos 4 phi, in rad A^4")
    magnification: float = setting(0.0, "anisotropic magnification in percent: frequencies are stretched by half of it along one axis and "
                                        "shrunk by half of it across", minimum=-20.0, maximum=20.0)
    magnification_angle: float = setting(0.0, "the axis of the anisotropic magnification, from image x towards y", unit="deg")
    ewald_sign: str = setting("none", "curvature of the Ewald sphere: an atom at height z (image x cross y) has z more (+1) or less (-1) "
                                      "defocus; none: a particle without depth", choices=("none", "+1", "-1"))
    max_shift: float = setting(6.0, "particles lie in a disc of this radius around the centre of their image", unit="A", minimum=0.0)
    realistic: bool = setting(False, "uneven views, contrast spread, unknown envelopes, coloured noise, defocus errors, and junk")
    junk: float | None = setting(None, "fraction of images without the particle; unset: 0.1 if realistic, else 0", minimum=0.0, maximum=1.0)
    motion_rotation: float = setting(0.0, "subunits turn about their centres of mass: standard deviation about each axis", unit="deg",
                                     minimum=0.0)
    motion_shift: float = setting(0.0, "subunits move: standard deviation along each axis", unit="A", minimum=0.0)
    subunits: str | None = setting(None, "what moves as one body: chains joined by +, bodies by a comma (A+B,C); chains not named stay; "
                                         "unset: each chain, or each symmetry copy")
    second_model: str | None = setting(None, "a second model or map, which makes class 2: a path, or the name of a model that comes along")
    second_fraction: float = setting(0.0, "fraction of images of the second model", minimum=0.0, maximum=1.0)
    start_low_pass: float = setting(40.0, "resolution of start.mrc, the map to start a refinement from", unit="A", minimum=1.0)
    start_turn: float = setting(0.0, "start.mrc is tilted by this angle about a random axis across z, as maps lie whose axes nobody knows",
                                unit="deg", minimum=0.0, maximum=180.0)
    start_shift: float = setting(0.0, "start.mrc is moved by this in a random direction", unit="A", minimum=0.0)
    poses: str = setting("none", "poses in particles.star; truth.star always has the true ones", choices=("none", "true", "perturbed"))
    perturb_rotation: float = setting(5.0, "perturbed poses: standard deviation about each axis", unit="deg", minimum=0.0)
    perturb_shift: float = setting(2.0, "perturbed poses: standard deviation along each axis", unit="A", minimum=0.0)


JOB = Job(
    name="simulate", summary="Particles with CTF, noise and known truth, from an atomic model or a map",
    teaches="Writes particles.mrcs and particles.star (RELION 3.1, without poses unless asked for), truth.star and truth.h5 (true poses, "
            "CTF, contrast, class, junk, subunit motion), map.mrc (the truth in the grey scale of the images) and start.mrc (the truth "
            "low-passed). Image i depends on the seed and i alone, not on how many are made. Two models come with Protomer: 1y1v, RNA "
            "polymerase II, which has no symmetry and is what is imaged without --model and --volume, and 5ni1, haemoglobin, which has C2 "
            "about z, and nearly D2. "
            "Example: protomer simulate --set number=2000 --set snr=0.1 --output simulated",
    inputs=(Input("model", "atomic model, PDB or mmCIF, gzipped or not; or the name of one that comes with Protomer", file="model.cif",
                  digest=True, shipped=True, alternatives=(".pdb", ".ent", ".cif.gz", ".pdb.gz", ".ent.gz")),
            Input("volume", "map to be imaged instead of a model", file="map.mrc", alternatives=(".mrc", ".map", ".h5")),
            Input("symmetry", "point group under which the model is copied, such as C2 or D7 (for a model of one subunit)", default="C1")),
    settings=SimulateSettings, entry="protomer.jobs.simulate")
