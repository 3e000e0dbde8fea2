"""What a text claims: a small tower learns to name the base claims in captions, and says so in plain English.

    claims = base_claims(grammar)  # L of them
    bank = make_bank(claims, captions, encoder)
    tower = make_tower(config, len(claims))
    state = start_state(optimiser, init_tower(tower, bank, key))
    step = partial(tower_step, tower, config, optimiser, bank)
    state, metrics = jax.jit(partial(scan_steps, step), static_argnames="steps")(state, key, steps=optimiser.steps)
    probabilities = understand(tower, state.ema, tokens.embeddings[0], tokens.mask[0])  # [L]
    print(describe_understanding(claims, probabilities))

The bank is built on the host; everything else is pure and traced once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import ArrayLike

from ldpol.errors import UserError
from ldpol.language.captions import Grammar, merge
from ldpol.language.claims import Claim
from ldpol.language.textbank import TextBank
from ldpol.language.tower import TextTower
from ldpol.settings import check
from ldpol.train_loop import OptimiserConfig, TrainState, advance
from ldpol.traits import TRAITS
from ldpol.types import Array, Key, PyTree


@dataclass(frozen=True)
class TowerConfig:
    """Architecture and training of a tower.

    Attributes:
      hidden, window, layers: of the `TextTower`.
      batch: captions a step.
      noise: standard deviation of noise on projected token vectors, relative to their root mean square.
      swap: probability of putting a neighbour of a token into its place.
      drop: probability of leaving a token out.
    """

    hidden: int = 32
    window: int = 3
    layers: int = 2
    batch: int = 128
    noise: float = 0.7
    swap: float = 0.3
    drop: float = 0.05

    def __post_init__(self) -> None:
        """Check the settings."""
        shares = {"swap": 1, "drop": 1}
        least = {"hidden": 1, "window": 1, "layers": 0, "batch": 1, "noise": 0}
        check(self, least=least | dict.fromkeys(shares, 0), most=shares)


def make_tower(config: TowerConfig, labels: int) -> TextTower:
    """Return the tower for this many labels."""
    return TextTower(labels, config.hidden, config.window, config.layers)


def init_tower(tower: TextTower, bank: TextBank, key: Key) -> PyTree:
    """Return the tower's first parameters, for the token vectors of a bank."""
    return tower.init(key, bank.vectors[bank.ids[0]], bank.mask[0])


def tower_step(
    tower: TextTower, config: TowerConfig, optimiser: OptimiserConfig, bank: TextBank, state: TrainState, key: Key
) -> tuple[TrainState, dict[str, Array]]:
    """Take one gradient step on a random batch of captions.

    Args:
      tower: with a label a claim.
      config: batch and augmentation.
      optimiser: its settings.
      bank: the captions.
      state: the state.
      key: decides batch and augmentation.

    Returns:
      The next state, and the metrics `loss` (cross entropy, summed over the labels) and `exact` (share of captions
      whose every claim was told, as augmented).
    """
    row_key, noise_key, swap_key, which_key, drop_key = jax.random.split(key, 5)
    rows = jax.random.randint(row_key, (config.batch,), 0, bank.ids.shape[0])
    ids, mask, labels = bank.ids[rows], bank.mask[rows], bank.labels[rows]
    which = jax.random.randint(which_key, ids.shape, 0, bank.neighbours.shape[1])
    ids = jnp.where(jax.random.bernoulli(swap_key, config.swap, ids.shape), bank.neighbours[ids, which], ids)
    mask = mask & ~jax.random.bernoulli(drop_key, config.drop, mask.shape)

    def batch_loss(params: PyTree) -> tuple[Array, Array]:
        # Each word is projected, and made noisy, once a step: a batch has ten times as many tokens.
        projected: Any = tower.apply(params, bank.vectors, method=TextTower.project)
        size = jnp.sqrt(jnp.mean(projected**2))
        projected = projected + config.noise * size * jax.random.normal(noise_key, projected.shape)
        logits: Any = jax.vmap(lambda x, there: tower.apply(params, x, there, method=TextTower.read))(
            projected[ids], mask
        )
        loss = optax.sigmoid_binary_cross_entropy(logits, labels).sum(-1).mean()
        return loss, ((logits > 0) == (labels > 0.5)).all(-1).mean()

    (loss, exact), gradient = jax.value_and_grad(batch_loss, has_aux=True)(state.params)
    return advance(optimiser, state, gradient), {"loss": loss, "exact": exact}


def base_claims(grammar: Grammar) -> tuple[Claim, ...]:
    """Return the L distinct claims that a grammar's meanings make, in the order in which it lists them."""
    meanings = (*grammar.verbs, *grammar.manners, *grammar.clauses)
    return tuple(dict.fromkeys(claim for _, claims in meanings for claim in claims))


def understand(tower: TextTower, params: PyTree, embeddings: Array, mask: Array) -> Array:
    """Return how probable it is that a text makes each claim: `[L]`.

    Args:
      tower: its architecture.
      params: its parameters.
      embeddings: `[T, d]` of one text.
      mask: `[T]` where there is a token.
    """
    return jax.nn.sigmoid(tower.apply(params, embeddings, mask))  # type: ignore[arg-type]


def describe_understanding(claims: Sequence[Claim], probabilities: ArrayLike, threshold: float = 0.5) -> str:
    """Say in plain English what was understood, such as "forward speed >= 1.22 m/s, left foot < 0.15".

    Args:
      claims: the L base claims.
      probabilities: `[L]`.
      threshold: what counts as understood. Where several such claims are about one trait, all hold; of two that
        cannot both hold, the more probable does.

    Raises:
      ValueError: if there is not one probability a claim.
    """
    values = np.asarray(probabilities, np.float64)
    if values.shape != (len(claims),):
        raise UserError(f"describe_understanding: expected {len(claims)} probabilities, found shape {values.shape}")
    told = [(claim, value) for claim, value in zip(claims, values, strict=True) if value >= threshold]
    understood = [
        claim
        for claim, value in told
        if not any(value < surer and any(map(_empty, merge((claim, other)))) for other, surer in told)
    ]
    return ", ".join(_describe(claim) for claim in merge(understood)) or "nothing"


_UNITS = {trait.name: "" if trait.unit == "1" else f" {trait.unit}" for trait in TRAITS}


def _empty(claim: Claim) -> bool:
    """Return whether no behaviour satisfies the claim."""
    return claim.low >= claim.high


def _describe(claim: Claim) -> str:
    unit = _UNITS.get(claim.trait, "")
    if _empty(claim):
        return f"{claim.trait} contradictory"
    if claim.low == -np.inf:
        return f"{claim.trait} < {claim.high:.3g}{unit}"
    if claim.high == np.inf:
        return f"{claim.trait} >= {claim.low:.3g}{unit}"
    return f"{claim.low:.3g} <= {claim.trait} < {claim.high:.3g}{unit}"
