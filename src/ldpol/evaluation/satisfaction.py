"""Do policies do what captions claim? Captions checked claim by claim."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ldpol.evaluation.intervals import Ratio, estimate
from ldpol.language.captions import Caption
from ldpol.language.claims import satisfied


def checked(captions: Sequence[Caption], names: Sequence[str], behaviours: ArrayLike) -> Ratio:
    """Count the claims of each caption, and those that hold of the behaviour in its row.

    Args:
      captions: n captions, each with at least one claim.
      names: names of the columns.
      behaviours: `[n, C]`.

    Returns:
      Claims that hold `[n]` over claims made `[n]`.
    """
    table = np.asarray(behaviours)
    hold = [satisfied(one.claims, names, row).sum() for one, row in zip(captions, table, strict=True)]
    return Ratio(np.asarray(hold, float), np.asarray([len(one.claims) for one in captions], float))


def by_chance(captions: Sequence[Caption], names: Sequence[str], behaviours: ArrayLike) -> Ratio:
    """Count the claims of each caption, and those that hold of a random behaviour, on average over all `[N, C]`."""
    table = np.asarray(behaviours)
    hold = [satisfied(one.claims, names, table).mean(0).sum() for one in captions]
    return Ratio(np.asarray(hold, float), np.asarray([len(one.claims) for one in captions], float))


def rate(ratio: Ratio) -> dict[str, Any]:
    """Return the share of claims that hold, its interval over captions, and how many captions hold as a whole."""
    found = estimate(ratio).as_json()
    whole = float((ratio.numerator >= ratio.denominator - 1e-9).mean())
    return {"value": found["value"], "low": found["low"], "high": found["high"], "whole": whole}


def by_trait(captions: Sequence[Caption], names: Sequence[str], behaviours: ArrayLike) -> dict[str, dict[str, float]]:
    """Return, for each trait that is spoken of, how many claims are about it and the share that holds."""
    made: dict[str, list[bool]] = {}
    for one, row in zip(captions, np.asarray(behaviours), strict=True):
        for claim, holds in zip(one.claims, satisfied(one.claims, names, row).tolist(), strict=True):
            made.setdefault(claim.trait, []).append(holds)
    return {trait: {"claims": len(held), "rate": float(np.mean(held))} for trait, held in sorted(made.items())}


def understood(captions: Sequence[Caption], known: Sequence[Any], read: NDArray) -> dict[str, float]:
    """Compare what a reader makes of captions with what they say.

    Args:
      captions: n captions.
      known: L claims that the reader can tell.
      read: `[n, L]` probability it gives to each.

    Returns:
      `recall` of the claims made, `precision` of those understood at 0.5 and more, and the share of captions of which
      everything was understood and nothing else (`exact`).
    """
    made = np.asarray([[claim in one.base_claims for claim in known] for one in captions])
    heard = np.asarray(read) >= 0.5
    both = (made & heard).sum()
    return {
        "recall": float(both / max(made.sum(), 1)),
        "precision": float(both / max(heard.sum(), 1)),
        "exact": float((made == heard).all(1).mean()),
    }
