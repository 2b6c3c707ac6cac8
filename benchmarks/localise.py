"""How often, and how fast, the first wrong instruction of a flipped bit is found: see localise.md.

python benchmarks/localise.py [--first SEED] [--flips 40] [--brute 8]

The flips are those of localising.py: bits of general registers, of the flags and of the data of the workload kernel.
Those that no instruction used, or that were overwritten, are counted apart. ``brute``: for so many of which the wrong
instruction is near, both modules are stepped through and compared in full after every instruction, and the answers must
agree.
"""

import argparse
from collections import Counter
from typing import Any

from localising import Localised, flip, localised
from measure import report, spread, to_stderr

from ftvm.errors import HostError
from ftvm.faults.notation import format_fault


def describe(seed: int, found: Localised | None) -> dict[str, Any]:
    """One flip, and what came of it."""
    flipped: dict[str, Any] = {"seed": seed, "fault": format_fault(flip(seed)), "outcome": "no divergence"}
    if found is None:
        return flipped
    finding = found.finding
    flipped |= {"outcome": "unused" if finding.latent else "overwritten", "s": round(finding.seconds, 2)}
    if finding.wrong is not None:
        place = finding.wrong.before.place
        flipped |= {"outcome": "found", "position": place.position, "instruction": place.instruction}
        if found.brute is not None:
            flipped["brute_force_agrees"] = found.brute == place
    return flipped


def measure(first: int, wanted: int, brute: int) -> dict[str, Any]:
    flips: list[dict[str, Any]] = []
    outcomes: Counter[str] = Counter()
    checked = 0
    while outcomes["found"] < wanted:
        seed = first + len(flips)
        flipped = describe(seed, localised(flip(seed), brute=checked < brute))
        flips.append(flipped)
        outcomes[flipped["outcome"]] += 1
        checked += "brute_force_agrees" in flipped
        to_stderr(f"{outcomes['found']}/{wanted} {flipped}")
        if flipped.get("brute_force_agrees") is False:
            raise HostError(f"brute force found another instruction: {flipped}")
    seconds = [flipped["s"] for flipped in flips if flipped["outcome"] == "found"]
    return {
        **{f"flips: {outcome}": count for outcome, count in outcomes.items()},
        "agreeing with brute force": checked,
        "s_to_first_wrong_instruction": spread(seconds),
        **{f"seed {flipped.pop('seed')}": flipped for flipped in flips},
        "plots": [{"title": "Time to the first wrong instruction", "x": "s", "values": seconds}],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Localise seeded flips.")
    parser.add_argument("--first", type=int, default=1001, help="the first seed")
    parser.add_argument("--flips", type=int, default=40, help="how many by which an instruction went wrong")
    parser.add_argument("--brute", type=int, default=8, help="how many of them to check by brute force")
    arguments = parser.parse_args()
    report("localise", vars(arguments), lambda: measure(arguments.first, arguments.flips, arguments.brute))


if __name__ == "__main__":
    try:
        main()
    except HostError as error:
        raise SystemExit(f"error: {error.message}") from None
