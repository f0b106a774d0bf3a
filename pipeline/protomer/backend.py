"""The one place that decides between CPU and CUDA."""

from __future__ import annotations

from protomer.errors import NotYetError, SettingsError

BACKENDS = ("auto", "cpu", "cuda")


def resolve_backend(asked: str) -> tuple[str, str]:
    """The backend that a run uses, and why in words. Raises SettingsError, and NotYetError for CUDA (nothing falls back in silence)."""
    if asked not in BACKENDS:
        raise SettingsError(f"--backend {asked}", "one of " + ", ".join(BACKENDS), "choose auto or cpu")
    if asked == "cuda":
        raise NotYetError("--backend cuda: the kernels' CUDA drivers and their choice of device are missing; it")
    return "cpu", "auto: this version computes on the CPU only" if asked == "auto" else "as asked"
