"""How often, and how fast, the first wrong instruction of a flipped bit is found: one line of JSON for each flip.

    python -m benchmarks.localise [--first SEED] [--flips N] [--brute N]

The flips are those of tests/divergence/localising.py: bits of general registers, of the flags and of the data of the
workload kernel. Those that no instruction used, or that were overwritten, are counted apart. ``brute``: for so many of
which the wrong instruction is near, both modules are stepped through and compared in full after every instruction, and
the answers must agree.
"""

import argparse
import json
import sys

from tests.divergence.localising import flip, localised


def main() -> int:
    parser = argparse.ArgumentParser(description="Localise seeded flips.")
    parser.add_argument("--first", type=int, default=1001, help="the first seed")
    parser.add_argument("--flips", type=int, default=100, help="how many that change something")
    parser.add_argument("--brute", type=int, default=20, help="how many of them to check by brute force")
    arguments = parser.parse_args()
    seed, met, agreed, wrong = arguments.first, 0, 0, 0
    while met < arguments.flips:
        found = localised(flip(seed), brute=agreed < arguments.brute)
        line: dict[str, object] = {"seed": seed, "outcome": "no divergence"}
        if found is not None:
            finding = found.finding
            line |= {"outcome": "latent" if finding.latent else "masked", "seconds": round(finding.seconds, 2)}
            if finding.wrong is not None:
                met += 1
                place = finding.wrong.before.place
                line |= {"outcome": "found", "position": place.position, "instruction": place.instruction}
                if found.brute is not None:
                    agrees = found.brute == place
                    agreed, wrong = agreed + agrees, wrong + (not agrees)
                    line["brute_force_agrees"] = agrees
        print(json.dumps(line), flush=True)
        seed += 1
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
