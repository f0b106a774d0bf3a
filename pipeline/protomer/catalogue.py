"""The jobs by name. Declarations are imported when asked for, so that `protomer --help` stays quick."""

from __future__ import annotations

import importlib

from protomer.config.settings import Job, unknown_name
from protomer.errors import SettingsError

JOB_NAMES = ("import", "simulate", "select", "join", "ab-initio", "refine", "helical-refine", "classify", "classify-fixed", "variability",
             "local-refine", "subtract", "reconstruct", "postprocess", "local-resolution", "orientations", "ctf-refine", "mask", "volume",
             "symmetry-find", "symmetry-expand", "align-maps", "export", "run", "watch", "report", "verify", "lock")


def module_name(job_name: str) -> str:
    """The name of a job's module: `import` is a word of Python and becomes import_particles; a dash becomes an underscore."""
    return "import_particles" if job_name == "import" else job_name.replace("-", "_")


def declaration(job_name: str) -> Job:
    """The declaration of a job; SettingsError, with the nearest name, where there is no such job."""
    plain = job_name.replace("_", "-")
    if plain not in JOB_NAMES:
        raise unknown_job(job_name)
    job: Job = importlib.import_module(f"protomer.declarations.{module_name(plain)}").JOB
    return job


def unknown_job(job_name: str) -> SettingsError:
    """The error for a job that does not exist."""
    return unknown_name("job", job_name, JOB_NAMES)
