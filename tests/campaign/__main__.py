"""`python -m campaign fuzz` or `python -m campaign chaos`, from tests/."""

import importlib
import sys

if __name__ == "__main__":
    if sys.argv[1:2] not in (["fuzz"], ["chaos"]):
        sys.exit("usage: python -m campaign fuzz|chaos [--help]")
    sys.exit(importlib.import_module(f"campaign.{sys.argv[1]}").main(sys.argv[2:]))
