"""What the page may ask for, checked before anything is computed."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ldpol.errors import UserError

LONGEST_TEXT = 300
STRONGEST = 8.0
STEPS = (2, 4, 8, 16, 32)
"""Sampler steps that can be asked for beside the model's own: each number of steps is a program of its own."""
SEEDS = 2**31
DRAWS = 4
"""Samples of one request that are shown side by side."""
WISHES = (2, 6)


class RequestError(UserError):
    """Something that cannot be asked for; the page shows the message."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What can be asked for here.

    Attributes:
      names, low, high: `[M]` of the measures.
      speaks: whether sentences are understood.
      model: whether there is a model; without one, only measures can be asked for.
    """

    names: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    speaks: bool
    model: bool


@dataclasses.dataclass(frozen=True)
class Wish:
    """How a policy should behave; None leaves it free.

    Attributes:
      measures: `[M]` in task units.
      quality: rank of fitness in [0, 1].
      text: a sentence.
    """

    measures: tuple[float | None, ...]
    quality: float | None = None
    text: str | None = None


@dataclasses.dataclass(frozen=True)
class Request:
    """A wish and how to answer it.

    Attributes:
      wish: how the policy should behave.
      seed: decides the samples.
      guidance, steps: the model's own where None.
      verified: whether verified draws may answer, if the model has any; else diffusion alone does.
    """

    wish: Wish
    seed: int = 0
    guidance: float | None = None
    steps: int | None = None
    verified: bool = True


@dataclasses.dataclass(frozen=True)
class WishList:
    """Wishes for one episode, one after the other."""

    wishes: tuple[Wish, ...]
    seed: int = 0


def parse_wish(body: Any, limits: Limits) -> Wish:
    """Read how a policy should behave.

    Raises:
      RequestError: for what cannot be asked for.
    """
    body = _object(body, "a wish", {"measures", "quality", "text"})
    count = len(limits.names)
    given = body.get("measures") or [None] * count
    if not isinstance(given, list) or len(given) != count:
        raise RequestError(f"measures must be a list of {count}: {', '.join(limits.names)}; null leaves one free")
    measures = tuple(
        None if value is None else _number(value, name, low, high)
        for value, name, low, high in zip(given, limits.names, limits.low, limits.high, strict=True)
    )
    quality, text = body.get("quality"), body.get("text")
    if quality is not None:
        quality = _number(quality, "the rank of fitness", 0.0, 1.0)
    if text is not None:
        if not isinstance(text, str) or len(text) > LONGEST_TEXT:
            raise RequestError(f"a sentence has at most {LONGEST_TEXT} characters")
        text = " ".join(text.split()) or None
    if text and not limits.speaks:
        raise RequestError("sentences are not understood here; ask for measures")
    if quality is not None and not limits.model:
        raise RequestError("an archive without a model can only be asked for measures")
    return Wish(measures, quality, text)


def parse_request(body: Any, limits: Limits) -> Request:
    """Read a request of the page.

    Raises:
      RequestError: for what cannot be asked for.
    """
    body = _object(body, "a request", {"wish", "seed", "guidance", "steps", "verified"})
    guidance, steps, verified = body.get("guidance"), body.get("steps"), body.get("verified", True)
    if guidance is not None:
        guidance = _number(guidance, "guidance", 0.0, STRONGEST)
    if steps is not None and (isinstance(steps, bool) or steps not in STEPS):
        raise RequestError(f"steps must be one of {', '.join(map(str, STEPS))}, found {str(steps)[:20]}")
    if not isinstance(verified, bool):
        raise RequestError(f"verified must be true or false, found {str(verified)[:20]}")
    return Request(parse_wish(body.get("wish", {}), limits), _seed(body), guidance, steps, verified)


def parse_sequence(body: Any, limits: Limits) -> WishList:
    """Read a request for several behaviours in one episode.

    Raises:
      RequestError: for what cannot be asked for.
    """
    body = _object(body, "a sequence", {"wishes", "seed"})
    wishes, (fewest, most) = body.get("wishes"), WISHES
    if not isinstance(wishes, list) or not fewest <= len(wishes) <= most:
        raise RequestError(f"a sequence has {fewest} to {most} wishes")
    return WishList(tuple(parse_wish(wish, limits) for wish in wishes), _seed(body))


def as_json(wish: Wish) -> dict[str, Any]:
    """Return the wish as `parse_wish` reads it."""
    return {"measures": list(wish.measures), "quality": wish.quality, "text": wish.text}


def free(values: Sequence[float | None]) -> list[float]:
    """Return the numbers with NaN for what is left free."""
    return [math.nan if value is None else value for value in values]


def _object(body: Any, what: str, known: set[str]) -> Mapping[str, Any]:
    if not isinstance(body, dict):
        raise RequestError(f"{what} must be a JSON object")
    unknown = sorted(str(name)[:20] for name in set(body) - known)
    if unknown:
        raise RequestError(f"{what} has no {', '.join(unknown[:3])}; it may have {', '.join(sorted(known))}")
    return body


def _number(value: Any, name: str, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise RequestError(f"{name} must be a number from {low:g} to {high:g}, found {str(value)[:20]}")
    return float(value)


def _seed(body: Mapping[str, Any]) -> int:
    seed = body.get("seed", 0)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < SEEDS - DRAWS:
        raise RequestError(f"the seed must be a whole number from 0 to {SEEDS - DRAWS - 1}, found {str(seed)[:20]}")
    return seed
