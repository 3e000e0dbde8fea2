"""All suites for other purposes than minutes on two cores: for one accelerator, and for a quick try."""

from ldpol.evaluation.context import Suite
from ldpol.evaluation.suites import (
    Composition,
    Damages,
    Guidance,
    HeldOutRegion,
    Reconstruction,
    Sentences,
    Sequencing,
    Steadiness,
)


def quick() -> tuple[Suite, ...]:
    """Return suites of seconds, for episodes of 50 steps, to see that everything runs; their numbers mean nothing."""
    return (
        Reconstruction(unseen=16, uniform=64),
        Guidance(scales=(1.0, 2.0), conditions=16, diverse=2, samples=2, observations=8),
        Composition(conditions=8),
        Sentences(elites=8, ranks=2, draws=4, examples=2),
        Sequencing(
            sequences=4,
            segments=2,
            episodes=2,
            settle=5,
            candidates=(1, 2),
            horizon=30,
            look_ahead_episodes=1,
            chunk=8,
        ),
        HeldOutRegion(draws=1),
        Steadiness(plays=2),
        Damages(trials=4, repeats=2, episodes=2, strengths=(0.5,), gravity=(), friction=(), chunk=32),
    )


def accelerated() -> tuple[Suite, ...]:
    """Return suites of thousands of requests, as one accelerator has time for, for episodes of 1,000 steps."""
    return (
        Reconstruction(unseen=10000, uniform=10000),
        Guidance(scales=(0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0), conditions=2048, diverse=256, samples=16),
        Composition(conditions=2048),
        Sentences(elites=2048, draws=400),
        Sequencing(sequences=1000, candidates=(4, 16, 64), horizon=500, look_ahead_episodes=50, chunk=200),
        HeldOutRegion(draws=50),
        Steadiness(),
        Damages(),
    )
