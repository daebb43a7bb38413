"""`python -m rlprune.agents.rl.assets AGENT.zip NAME`: make a trained agent one that comes with the package."""

from __future__ import annotations

import sys

from rlprune.agents.rl.assets import prepare
from rlprune.errors import UserError


def main(arguments: list[str]) -> int:
    """Prepare the files and print where they are."""
    if len(arguments) != 2:
        print("usage: python -m rlprune.agents.rl.assets AGENT.zip NAME", file=sys.stderr)
        return 2
    try:
        print(prepare(arguments[0], arguments[1]))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
