"""What a refinement's report says of the CTFs that were refined within it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protomer.report.build import Report

if TYPE_CHECKING:
    from protomer.refinement.ctf_within import CtfFound


def add_ctf(report: Report, found: CtfFound | None) -> None:
    """A section, where CTFs were refined."""
    if found is None:
        return
    words = (f"Refined {found.searches} times in turn with poses, the last time after iteration {found.iterations}, against the half maps "
             f"as they then were; {'nothing that shows was changed by it' if found.is_still else 'poses settled again afterwards'}.")
    if "defocus_change_A" in found.summary:
        words += (f" Defoci changed by {found.summary['defocus_change_A']:.0f} Å (standard deviation); the standard error of one is "
                  f"{found.summary['defocus_error_A']:.0f} Å (median).")
    report.section("CTF", words)
    if found.rows:
        report.table(("group", "quantity", "before", "after", "standard error", "verdict"), found.rows)
