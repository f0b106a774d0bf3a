"""What align-maps shows: each map on the reference, how surely, and what is different."""

from __future__ import annotations

from protomer.declarations.align_maps import AlignMapsSettings
from protomer.maps.map_aligning import Aligned, is_small, verdict
from protomer.maps.map_differences import difference_map
from protomer.maps.map_search import Alignment
from protomer.maps.rigid_motion import RigidMotion
from protomer.maps.volumes import Volume
from protomer.report.alignment_pictures import difference_figure, overlay_figure
from protomer.report.build import Report
from protomer.report.symmetry_pictures import operator_figure


def new_report(name: str, reference: Volume, found: list[Aligned], settings: AlignMapsSettings) -> Report:
    """A report with its headlines; name: of the reference."""
    finest = ", ".join(sorted({f"{aligned.finest_A:.1f} Å" for aligned in found}))
    facts = {"reference": name, "box": f"{reference.box} voxels of {reference.voxel_size_A:.4g} Å",
             "compared down to": f"{finest}, as far as the maps agree", "masks": "as given" if settings.apply_masks else "by rule"}
    report = Report("Aligned maps", (), facts)
    report.headline("maps", str(len(found)), f"{sum(aligned.placement.is_mirrored for aligned in found)} with the hand flipped")
    fits = [aligned.alignment.fit for aligned in found if aligned.alignment is not None]
    if fits:
        worst = min(fits, key=lambda fit: fit.score)
        report.headline("agreement", f"{worst.score:.3f}", f"of the worst map, down to {worst.resolution_A:.1f} Å")
        report.headline("known to", f"{max(fit.angle_sd_deg for fit in fits):.3f}°, {max(fit.shift_sd_A for fit in fits):.3f} Å",
                        "standard deviation of the worst-known map")
    return report


def add_section(report: Report, title: str, name: str, aligned: Aligned) -> None:
    """What one map's alignment is, in words and tables."""
    found, motion, is_mirrored = aligned.alignment, aligned.placement.motion, aligned.placement.is_mirrored
    report.section(f"{title}: {name}", verdict(name, aligned))
    rows = [[f"{value:.6f}" for value in row] + [f"{by:.3f}"] for row, by in zip(motion.rotation, motion.shift_A, strict=True)]
    report.table(["x", "y", "z", "shift (Å)"], rows, "Rotation, row by row, and shift: x' = rotation x + shift, from the box centres"
                 + (", after z was turned into -z." if is_mirrored else "."))
    if found is not None:
        report.table(["", "value"], numbers(found, motion, is_mirrored),
                     "Standard deviations along the worst-known direction. Agreement: correlation of the maps, each shell weighing by its "
                     "size.")


def numbers(found: Alignment, motion: RigidMotion, is_mirrored: bool) -> list[list[object]]:
    """The rows of a map's table."""
    return [["turn", f"{motion.angle_deg:.3f} ± {found.fit.angle_sd_deg:.3f}°"],
            ["shift", f"{motion.distance_A:.3f} ± {found.fit.shift_sd_A:.3f} Å"], ["hand", "flipped" if is_mirrored else "kept"],
            ["agreement", f"{found.fit.score:.4f} down to {found.fit.resolution_A:.1f} Å"],
            ["other hand", margin_text(found.other_hand, found.hand_margin, found)],
            ["next best place", margin_text(found.runner_up, found.start_margin, found)],
            ["equal places", found.equals]]


def margin_text(score: float | None, margin: float | None, found: Alignment) -> str:
    """A score that fell behind, and by how much."""
    if score is None or margin is None:
        return "not tried, or none came near"
    return f"{score:.4f} ({100 * margin:.1f}% behind{'; undecided' if is_small(margin, found) else ''})"


def add_pictures(report: Report, reference: Volume, moved: Volume, found: Alignment, low_pass_A: float | None) -> Volume:
    """The agreement by shell, an overlay, and slices of the difference map, which is returned."""
    report.figure(operator_figure({"agreement": found.curve}, reference.box * reference.voxel_size_A, None, "the reference"),
                  "Agreement of the aligned map with the reference by shell, in the masks that were compared. It is no resolution: "
                  "two maps agree as far as they are of one structure.")
    report.figure(overlay_figure(reference, moved), "Projections of the reference (magenta) and the aligned map (green).")
    resolution_A = low_pass_A or found.fit.resolution_A
    smooth, difference = difference_map(reference, moved, resolution_A)
    report.figure(difference_figure(smooth, difference), f"Aligned map minus reference, both low-passed to {resolution_A:.1f} Å and on "
                  "one grey scale (red: more in the map, blue: less), with a contour of the reference.")
    return difference
