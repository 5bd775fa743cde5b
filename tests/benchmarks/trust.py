"""What the statistics promise, simulated: false alarms, coverage, power. `python tests/benchmarks/trust.py`"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import simulations
from results import write_section


def main() -> None:
    """Simulate each promise once, with the seeds of the tests, and write the table."""
    shares, many = simulations.share_coverage(200), simulations.share_coverage(400)
    rows = [
        ("a prompt against itself, 13 batches: t test", _of(simulations.alarms("t_test", 13)), "5 ± 1.5 %"),
        ("the same, 25 batches", _of(simulations.alarms("t_test", 25)), "5 ± 1.5 %"),
        ("the same, 13 batches: sign flips", _of(simulations.alarms("sign_flip_test", 13)), "5 ± 1.5 %"),
        ("five points better, 25 batches: found", _of(simulations.alarms("t_test", 25, 0.4)), "35 % or more"),
        ("five points better, 100 batches: found", _of(simulations.alarms("t_test", 100, 0.4)), "90 % or more"),
        (
            "asked twice, 12 % differ, ICC 0.06: holds",
            _of(simulations.asked_twice_coverage(0.12, 0.06)),
            "93 to 97 %",
        ),
        ("asked twice, 30 % differ, ICC 0.03: holds", _of(simulations.asked_twice_coverage(0.3, 0.03)), "93 to 97 %"),
        ("stability of five runs: holds", _of(simulations.stability_coverage(5)), "93 to 97 %"),
        ("shares, 200 labels, ten or more: holds", _of(shares["ten_or_more"]), "93 to 97 %"),
        ("shares, 400 labels, ten or more: holds", _of(many["ten_or_more"]), "93 to 97 %"),
        ("width of large shares, 200 labels", f"{shares['width']:.3f}", f"below {shares['naive_width']:.3f}"),
        ("audit of a fair model, 25 batches: flagged", _of(simulations.audit_alarms(25)), "5 % or less"),
        (
            "the same, batches of two sizes: flagged",
            _of(simulations.audit_alarms(25, uneven=True)),
            "5 % or less",
        ),
        ("ten points more errors in slots 30 to 39: found", _of(simulations.audit_alarms(25, 0.1)), "75 % or more"),
    ]
    few, many_settings = simulations.best_in_the_set(6, 5, 0.002), simulations.best_in_the_set(12, 5, 0.02)
    halved = simulations.best_in_the_set(12, 5, 0.02, halving=True)
    ten = simulations.optimism_left(10, 0.0)
    rows += [
        ("sweep of 6 settings that hardly differ: the best is in the set", _of(few["held"]), "95 % or more"),
        ("sweep of 12 settings, 2 points apart: settings in the set", f"{many_settings['size']:.1f}", "4 or fewer"),
        ("the same with halving: the best is in the set", _of(halved["held"]), "95 % or more"),
        ("… runs that are not made", _of(halved["saved"]), "25 % or more"),
        ("best of 10 equal settings, 200 labels: optimism", f"{ten['naive']:.3f}", "stated"),
        ("the same, corrected", f"{ten['corrected']:.3f}", "0 ± 0.003"),
    ]
    write_section("Trust", "what is promised", rows)


def _of(share: float) -> str:
    return f"{share:.1%}"


if __name__ == "__main__":
    main()
