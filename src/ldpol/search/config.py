"""Settings of the searches; apart from these, so that who only reads a config does not import QDax."""

from dataclasses import dataclass, field, replace
from typing import Literal

from ldpol.rollout import RolloutConfig
from ldpol.search.ppo_config import PPOConfig
from ldpol.search.xnes import XNESConfig
from ldpol.settings import check, fail

SEARCHES = {"map_elites": "MAP-Elites", "ppga": "PPGA", "hybrid": "PPGA, then MAP-Elites"}


@dataclass(frozen=True)
class MapElitesConfig:
    """Settings of the search.

    Attributes:
      batch: offspring an iteration, B; the first iteration's are random policies.
      iso_low, iso_high: the isotropic mutation's standard deviation is log-uniform between them.
      line: standard deviation of the step along the line between two parents, relative to their distance.
      episodes: episodes an offspring plays at first.
      verify: candidates an iteration that play again; 0 switches verification off.
      verify_episodes: further episodes a candidate plays; it enters with the mean over all.
    """

    batch: int = 1024
    iso_low: float = 0.003
    iso_high: float = 0.03
    line: float = 0.05
    episodes: int = 1
    verify: int = 0
    verify_episodes: int = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        check(
            self,
            least={"batch": 1, "line": 0, "episodes": 1, "verify": 0, "verify_episodes": 0},
            above={"iso_low": 0},
        )
        if self.iso_low > self.iso_high:
            fail(self, "iso_low", f"must be at most iso_high = {self.iso_high:g}, found {self.iso_low:g}")
        if self.verify > self.batch:
            fail(self, "verify", f"must be at most batch = {self.batch}, found {self.verify}")
        if (self.verify > 0) != (self.verify_episodes > 0):
            fail(
                self,
                "verify_episodes",
                f"must be positive exactly where verify is, found {self.verify_episodes} and {self.verify}",
            )


@dataclass(frozen=True)
class PPGAConfig:
    """Settings of PPGA beside those of PPO and xNES.

    Attributes:
      gradient_updates: PPO updates of each of the 1 + M copies an iteration, N1.
      walk_updates: PPO updates of the search policy an iteration, N2.
      episodes: episodes a branch plays.
      archive_rate: learning rate of the thresholds, alpha: 0 keeps them where they are, 1 makes them the best so far.
      threshold_min: of an empty cell; fitness a branch must exceed to count as progress.
      reward_iterations: iterations at the start whose walk climbs the reward alone, so that branches have something to
        branch from; xNES ranks and moves as ever.
      unit_gradients: whether directions are scaled to length 1, so that coefficients are distances between parameters;
        if not, a coefficient of 1 is what PPO reached.
    """

    gradient_updates: int = 10
    walk_updates: int = 10
    episodes: int = 1
    archive_rate: float = 0.5
    threshold_min: float = 0.0
    reward_iterations: int = 0
    unit_gradients: bool = True

    def __post_init__(self) -> None:
        """Check the settings."""
        least = {"gradient_updates": 1, "episodes": 1, "walk_updates": 0, "reward_iterations": 0, "archive_rate": 0}
        check(self, least=least, most={"archive_rate": 1})


@dataclass(frozen=True)
class HybridConfig:
    """PPGA for a while, then MAP-Elites whose candidates are evaluated again before they enter.

    Otherwise lucky ones would crowd out PPGA's steady elites.

    Attributes:
      ppga_iterations: of PPGA.
      verify, verify_episodes: of MAP-Elites, see `MapElitesConfig`.
    """

    ppga_iterations: int = 70
    verify: int = 128
    verify_episodes: int = 3

    def __post_init__(self) -> None:
        """Check the settings."""
        check(self, least={"ppga_iterations": 1, "verify": 0, "verify_episodes": 0})


@dataclass(frozen=True)
class PPGASettings:
    """PPGA with its parts.

    The defaults are tuned for minutes, not hours: small rollouts and few epochs, wide exploration, and a walk on the
    reward alone until there is something to branch from.

    Attributes:
      emitter: of the iteration.
      ppo: of its trainings.
      xnes: of its search for coefficients.
    """

    emitter: PPGAConfig = PPGAConfig(
        gradient_updates=5, walk_updates=15, episodes=2, archive_rate=0.05, reward_iterations=150
    )
    ppo: PPOConfig = PPOConfig(
        environments=120,
        steps=32,
        epochs=4,
        gamma=0.995,
        entropy_weight=0.01,
        initial_log_std=0.0,
        max_log_std=1.0,
        critic=(64, 64),
    )
    xnes: XNESConfig = XNESConfig(population=64)

    def __post_init__(self) -> None:
        """Check the settings."""
        check(self)


@dataclass(frozen=True)
class SearchConfig:
    """All settings of `search_archive`.

    Attributes:
      search: `hybrid`, `map_elites` or `ppga`.
      cells: of the grid, per measure.
      iterations: of the search.
      hidden: widths of the policies' hidden layers.
      map_elites, hybrid, ppga: settings of each.
      rollout: lanes and blocks of a device.
    """

    search: Literal["hybrid", "map_elites", "ppga"] = "hybrid"
    cells: int = 50
    iterations: int = 200
    hidden: tuple[int, ...] = (64, 64)
    map_elites: MapElitesConfig = MapElitesConfig()
    hybrid: HybridConfig = HybridConfig()
    ppga: PPGASettings = PPGASettings()
    rollout: RolloutConfig = field(default_factory=RolloutConfig)

    def __post_init__(self) -> None:
        """Check the settings."""
        check(self, least={"cells": 1, "iterations": 1, "hidden": 1})
        if not self.hidden:
            fail(self, "hidden", "is empty; give at least one layer, for instance (64, 64)")
        if self.search == "hybrid":
            self.after_ppga  # noqa: B018

    @property
    def after_ppga(self) -> MapElitesConfig:
        """MAP-Elites as it goes on where PPGA ends."""
        return replace(self.map_elites, verify=self.hybrid.verify, verify_episodes=self.hybrid.verify_episodes)
