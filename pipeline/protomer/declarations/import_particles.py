"""The job `import`: from the particle tables of other programs to particles.h5."""

from __future__ import annotations

from dataclasses import dataclass

from protomer.config.settings import Input, Job, JobSettings, setting


@dataclass(frozen=True)
class ImportSettings(JobSettings):
    """How particles are taken over."""

    pixel_size: float | None = setting(None, "pixel size of the images as they lie in the stacks; unset: the table's", unit="A",
                                       minimum=1e-3)
    normalise: bool = setting(True, "bring the background (outside a circle of radius 0.4 box) to mean 0 and sd 1")
    invert_contrast: bool = setting(False, "invert the grey values: particles must be white in the end")
    bin: float = setting(1.0, "Fourier-crop the images by this factor (the box becomes the nearest even number)", minimum=1.0)
    split_by: str = setting("image", "what shares a half-set when half-sets are drawn", choices=("image", "micrograph", "filament"))
    redraw_halves: bool = setting(False, "draw half-sets anew even where the table has them (no longer gold standard for its poses)")
    bad_images: str = setting("stop", "what to do about unusable rows: stop, or list them in rejected.csv and go on",
                              choices=("stop", "reject"))
    allow_zero_defocus: bool = setting(False, "accept rows whose defocus is 0 (images without a CTF)")
    project_folder: str | None = setting(None, "folder that stack names are relative to; unset: the table's own and its parents")


JOB = Job(
    name="import",
    summary="Particles from STAR, .cs or a bare stack: checked, normalised, half-sets drawn",
    teaches="""Reads a particle table, looks at every image it names once, and writes particles.h5. The stacks stay where they are. Poses
and half-sets are kept where the table has them; otherwise half-sets are drawn from a hash of each image, once and for all. Nothing is lost:
rows in = rows out + rows in rejected.csv, each with its reason. A bare stack may come with a CSV of its CTF (columns image, defocus_u_A,
defocus_v_A, defocus_angle_deg, phase_shift_deg, voltage_kV, spherical_aberration_mm, amplitude_contrast, micrograph).

    protomer import --star particles.star --output imported""",
    inputs=(
        Input("star", "a RELION STAR file of particles (3.0 to 5)", file="particles.star", alternatives=(".star",)),
        Input("cs", "a cryoSPARC .cs file of particles", file="particles.cs", alternatives=(".cs",)),
        Input("passthrough", "the passthrough .cs file that belongs to --cs", file="passthrough_particles.cs", alternatives=(".cs",)),
        Input("stack", "a bare image stack", file="particles.mrcs", alternatives=(".mrcs", ".mrc", ".st", ".map"), digest=False),
        Input("ctf", "CSV with the CTF of the images of --stack", file="ctf.csv", alternatives=(".csv", ".txt")),
    ),
    settings=ImportSettings,
    entry="protomer.jobs.import_particles",
)
