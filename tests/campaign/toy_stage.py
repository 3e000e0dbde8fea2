"""`python -m ldpol.experiments` on the toy task of the tests: everything but physics, in a tenth of the time."""

import sys
from typing import Any

from toy import make_toy

from ldpol.experiments import configs
from ldpol.experiments.__main__ import main
from ldpol.tasks import Task


def make_task(name: str, *, episode_length: int, reset_noise: float, **_: Any) -> Task:
    """Return the toy in the place of a task of physics."""
    return make_toy(name=name, episode_length=episode_length, noise=reset_noise)


if __name__ == "__main__":
    configs.make_task = make_task
    sys.exit(main(sys.argv[1:]))
