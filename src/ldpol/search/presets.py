"""Searches for other purposes than minutes on two cores: for hours, an accelerator, as published, a quick try."""

from ldpol.search.config import SearchConfig
from ldpol.settings import revise


def quick(config: SearchConfig = SearchConfig()) -> SearchConfig:
    """Return a search of seconds, to see that everything runs; its elites are worth nothing."""
    return revise(
        config,
        search="map_elites",  # the quickest to compile
        cells=10,
        iterations=4,
        hidden=(16, 16),
        map_elites={"batch": 64},
        hybrid={"ppga_iterations": 2, "verify": 16, "verify_episodes": 2},
        ppga={
            "emitter": {"gradient_updates": 1, "walk_updates": 1},
            "ppo": {"environments": 60, "steps": 8, "critic": (16,)},
            "xnes": {"population": 16},
        },
        rollout={"lanes": 32},
    )


def large(config: SearchConfig = SearchConfig()) -> SearchConfig:
    """Return a search of hours on two cores: the published policies and grid.

    Walker2d: 6,298 elites after 127 million steps, in 2.6 hours beside other work (results/large-walker2d.json). The
    search peaks at 6.6 GB, its checkpoint takes 0.8 GB. It still gains then; more iterations go on where it ended.
    """
    return revise(
        config,
        cells=100,  # of two measures
        iterations=325,
        hidden=(128, 128),
        hybrid={"ppga_iterations": 250, "verify": 256},
    )


def accelerated(config: SearchConfig = SearchConfig()) -> SearchConfig:
    """Return a search for one accelerator: thousands of episodes side by side, the published policies and grid."""
    return revise(
        config,
        cells=100,  # of two measures
        iterations=600,
        hidden=(128, 128),
        map_elites={"batch": 16384},
        hybrid={"verify": 2048},
        ppga={
            "emitter": {"gradient_updates": 10, "walk_updates": 10},
            "ppo": {"environments": 3840, "steps": 32, "minibatches": 8, "critic": (256, 256)},
            "xnes": {"population": 1024},
        },
        rollout={"lanes": 8192, "block": 25},
    )


def published(config: SearchConfig = SearchConfig(), task: str = "walker2d") -> SearchConfig:
    """Return PPGA as published (Batra et al. 2024), with the settings that differ for humanoid and ant.

    What it does not set, such as cells and hidden layers, is taken from `config`.
    """
    return revise(
        config,
        search="ppga",
        iterations=2000,
        ppga={
            "emitter": {
                "gradient_updates": 10,
                "walk_updates": 10,
                "archive_rate": 0.1 if task in ("humanoid", "ant") else 0.5,
                "episodes": 10,
                "threshold_min": -500.0 if task == "ant" else 200.0,
                "reward_iterations": 0,
            },
            "ppo": {
                "environments": 3000,
                "steps": 128,
                "epochs": 4,
                "minibatches": 8,
                "gamma": 0.99,
                "entropy_weight": 0.0,
                "max_log_std": None,
                "target_kl": 0.008,
                "learning_rate": 3e-4 if task == "humanoid" else 1e-3,
                "critic": (256, 256),
            },
            "xnes": {"population": 300, "sigma": {"humanoid": 0.5, "ant": 3.0}.get(task, 1.0)},
        },
    )
