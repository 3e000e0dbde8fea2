"""Stage `train`: from `archive/` to the generator in `model/`."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ldpol import archive as archives
from ldpol import storage
from ldpol.archive import Archive
from ldpol.experiments import passes, reading, session, settings, verifying
from ldpol.experiments.settings import Config
from ldpol.generator import PolicyGenerator
from ldpol.language.reader import Language
from ldpol.model import autoencoder, optimiser, training
from ldpol.model.bank import CaptionBank, LatentBank, build_bank, image_shape
from ldpol.model.condition import ask, nothing
from ldpol.model.dataset import Dataset, add_states, elite_weights, normaliser
from ldpol.model.denoiser import DenoiserConfig, make_network
from ldpol.model.optimiser import OptimiserConfig, TrainState
from ldpol.precision import PRECISIONS, compress, expand
from ldpol.rollout import RolloutConfig, copied_to, evaluate, keep_states, over_chunks, policy_mesh
from ldpol.types import Array, Behaviour, Key, Params, PyTree, Score

SECTIONS = ("seed", "task", "policy", "train")


def held_out(
    archive: Archive, seed: int, fraction: float, low: tuple[float, ...], high: tuple[float, ...]
) -> np.ndarray:
    """Choose the elites that training never sees.

    Args:
      archive: the archive, N elites.
      seed: decides the random ones.
      fraction: of all elites, at random.
      low: `[M]` corner of a box of the measure space; an empty tuple means no box.
      high: `[M]` the opposite corner.

    Returns:
      `[N]` 0 for trained elites, 1 for random held-out ones, 2 for those inside the box.

    Raises:
      ValueError: if nothing is left to train on, or the box does not fit the measures.
    """
    count, width = archive.measures.shape
    if len(low) != len(high) or len(low) not in (0, width):
        raise ValueError(f"the held-out box needs {width} bounds a corner (or none), found {low} and {high}")
    kind = np.zeros(count, np.int32)
    kind[np.random.default_rng(seed).permutation(count)[: round(fraction * count)]] = 1
    if low:
        measures = np.asarray(archive.measures)
        kind[((measures >= np.asarray(low)) & (measures <= np.asarray(high))).all(1)] = 2
    if (kind == 0).sum() < 2:
        raise ValueError(f"only {(kind == 0).sum()} of {count} elites are left to train on; hold fewer out")
    return kind


def run(config: Config, workdir: Path) -> None:
    """Train autoencoder and denoiser, from the last checkpoint if there is one.

    Raises:
      FileNotFoundError: if the archive stage has not finished.
      ConfigError: if the folder holds a training with other settings or of another archive.
    """
    archive = archives.load(workdir / "archive" / "elites")
    task, shape, _ = session.make_setting(config)
    archives.check_task(archive, task)
    if archive.shape != shape:
        raise settings.ConfigError(f"the archive's policies are {archive.shape}, the config asks for {shape}")
    stage = _Stage(config, workdir, archive)
    if stage.finished():
        session.say(f"train: already done (generator in {workdir / 'model'})")
        return
    rows = stage.kind == 0
    trained = archives.take(archive, rows)
    labels = jax.tree.map(lambda leaf: leaf[rows], passes.reference(config, workdir, archive))
    key = jax.random.fold_in(jax.random.key(config.seed), 1)
    collect_key, auto_key, dagger_key, denoiser_key, reader_key, verify_key = jax.random.split(key, 6)
    data = stage.collect(trained, labels.score, collect_key)
    params, data = stage.train_autoencoder(trained, data, auto_key, dagger_key)
    language, reader, captions = stage.train_reader(labels, reader_key)
    noise, fitness = config.train.autoencoder.loss.noise, np.asarray(labels.score.fitness)
    posterior = stage.encode(params, trained)
    weights = data.weights * stage.verify(params, posterior, data.measures, verify_key)
    bank, scaling = build_bank(stage.autoencoder, *posterior, data.measures, noise, weights, fitness, captions)
    denoiser = stage.train_denoiser(bank, denoiser_key)
    generator = PolicyGenerator(
        decoder=params["decoder"],
        denoiser=denoiser,
        scaling=scaling,
        reader=reader,
        shape=shape,
        autoencoder=stage.autoencoder,
        network=stage.network,
        schedule=config.train.denoiser.loss.schedule,
        parametrisation=config.train.denoiser.loss.parametrisation,
        grid=archive.grid,
        measure_names=task.measure_names,
        task=task.name,
        settings=archive.settings,
        steps=config.train.sampler.steps,
        method=config.train.sampler.method,
        guidance=config.train.sampler.guidance,
        text_guidance=config.train.sampler.text_guidance,
        language=language,
        precision=config.train.precision,
    )
    stage.finish(generator)


@dataclasses.dataclass
class _Log:
    """History, scalars and time of the stage; survives an interruption inside the checkpoints."""

    rows: list[dict[str, Any]]
    timer: session.Timer
    scalars: session.Scalars

    def add(self, phase: str, step: int, metrics: dict[str, Any], **extra: Any) -> dict[str, Any]:
        row = {"phase": phase, "step": step, "seconds": round(self.timer.seconds, 3)}
        row |= {name: float(value) for name, value in metrics.items()} | extra
        self.rows.append(row)
        self.scalars.write(step, row, f"{phase}/")
        return row


class _Stage:
    """The steps of the stage with their files; every step leaves a checkpoint the next run can start from."""

    def __init__(self, config: Config, workdir: Path, archive: Archive) -> None:
        self.config, self.workdir, self.folder = config.train, workdir, workdir / "train"
        self.whole, self.archive = config, archive
        self.task, self.shape, self.grid = session.make_setting(config)
        self.mesh, self.trainers = policy_mesh(), session.training_mesh()
        self.autoencoder = settings.build(autoencoder.AutoencoderConfig, self.config.autoencoder.architecture)
        self.network = settings.build(DenoiserConfig, self.config.denoiser.architecture)
        autoencoder.check_config(self.autoencoder)
        held = self.config.held_out
        if self.config.precision not in PRECISIONS:
            known = ", ".join(PRECISIONS)
            raise settings.ConfigError(f"unknown train.precision {self.config.precision!r} (known: {known})")
        self.kind = held_out(archive, config.seed, held.fraction, tuple(held.low), tuple(held.high))
        self.about = {
            "config": settings.as_json(config, *SECTIONS),
            "archive": storage.fingerprint(workdir / "archive" / "elites"),
        }
        self.log = _Log([], session.Timer(), session.Scalars(self.folder / "tensorboard"))
        self.chunk = config.rollout.chunk
        collect = self.config.collect
        self.first = collect.repeats * collect.episodes * collect.states  # states of the elites themselves
        device = settings.build(RolloutConfig, config.rollout.device)
        decoder = autoencoder.Decoder(self.shape, self.autoencoder)
        decode_one = lambda p, latent, wanted: decoder.apply({"params": p}, latent, ask(wanted))  # noqa: E731
        self.decode = jax.jit(jax.vmap(decode_one, (None, 0, 0)))
        recorder = keep_states(self.task, self.config.collect.states)
        # One program serves teachers and decoded policies alike: compiling the physics takes longer than running it.
        self.play = jax.jit(
            lambda policies, keys: evaluate(
                self.task,
                self.shape.apply,
                policies,
                keys,
                episodes=self.config.collect.episodes,
                config=device,
                mesh=self.mesh,
                recorder=recorder,
            )
        )

    def finished(self) -> bool:
        """Tell whether the generator is there and belongs to these settings and this archive."""
        if not (self.folder / "metrics.json").is_file() or not (self.workdir / "model").is_file():
            return False
        self._check(storage.load(self.folder / "data", kind="dataset")[1])
        return True

    def _check(self, about: dict[str, Any]) -> None:
        session.check_same(about["config"], self.whole, SECTIONS, self.folder)
        if about["archive"] != self.about["archive"]:
            raise settings.ConfigError(
                f"{self.folder} was trained on another archive than {self.workdir / 'archive'} holds now; "
                f"delete {self.folder} to train again"
            )

    def _rollouts(self, policies: Params, key: Key, title: str) -> np.ndarray:
        """Play N policies and return the observations `[N, S, O]` their episodes kept."""
        count = jax.tree.leaves(policies)[0].shape[0]
        with session.progress(title, count, unit="policy") as bar:
            _, (states, _) = over_chunks(self.play, policies, key, size=self.chunk, mesh=self.mesh, done=bar.update)
        return states.reshape(count, -1, self.task.observation_size)

    def _act(self, policies: Params, states: np.ndarray) -> np.ndarray:
        act = jax.jit(jax.vmap(lambda params, seen: self.shape.apply(params, seen)))
        return np.asarray(act(policies, states))

    def collect(self, archive: Archive, labels: Score, key: Key) -> Dataset:
        """Play the archive's own policies for the states they visit, or read what an earlier run collected."""
        collect, path = self.config.collect, self.folder / "data"
        total = collect.episodes * collect.states * (collect.repeats + self.config.autoencoder.dagger_rounds)
        if storage.exists(path):
            arrays, about = storage.load(path, kind="dataset")
            self._check(about)
            self.rounds = about["rounds"]
            return self._dataset(archive, **arrays)
        noise_key, *keys = jax.random.split(key, collect.repeats + 1)
        states = []
        for repeat, one in enumerate(keys):
            title = f"train: rollouts of the archive ({repeat + 1}/{collect.repeats})"
            states.append(self._rollouts(archive.policies, one, title))
        seen = np.concatenate(states, 1)
        seen = seen + collect.noise * np.asarray(jax.random.normal(noise_key, seen.shape))
        measures = archive.grid.scaled(np.asarray(labels.measures)).astype(np.float32)
        arrays = {
            "measures": measures,
            "weights": elite_weights(np.asarray(labels.fitness), measures, **self.config.weights),
            "states": np.zeros((len(archive), total, self.task.observation_size), np.float32),
            "actions": np.zeros((len(archive), total, self.task.action_size), np.float32),
            "filled": np.asarray(seen.shape[1], np.int32),
        }
        arrays["states"][:, : seen.shape[1]] = seen
        arrays["actions"][:, : seen.shape[1]] = self._act(archive.policies, seen)
        self.rounds = 0
        self._save_data(arrays)
        return self._dataset(archive, **arrays)

    def _save_data(self, arrays: dict[str, np.ndarray]) -> None:
        storage.save(self.folder / "data", arrays, kind="dataset", about=self.about | {"rounds": self.rounds})

    def _dataset(self, archive: Archive, **arrays: Any) -> Dataset:
        return jax.device_put(Dataset(policies=archive.policies, **arrays), copied_to(self.trainers))

    def train_autoencoder(self, archive: Archive, data: Dataset, key: Key, dagger_key: Key) -> tuple[PyTree, Dataset]:
        """Train, and between rounds add states that the decoded policies visit, labelled by their teachers."""
        section = self.config.autoencoder
        descent = settings.build(OptimiserConfig, section.optimiser)
        loss = settings.build(training.AutoencoderLoss, section.loss)
        init_key, train_key = jax.random.split(key)
        with session.working("train: principal directions of the archive"):
            normal = normaliser(data.replace(filled=self.first))  # type: ignore[attr-defined]
            params = autoencoder.init(
                self.shape, self.autoencoder, self.task.measures, archive.policies, normal, init_key
            )
        projection = jax.device_put(params["encoder"]["projection"], copied_to(self.trainers))
        trained = {"encoder": params["encoder"]["params"], "decoder": params["decoder"]}
        state = optimiser.start_state(descent, trained)

        def step(state: TrainState, key: Key, data: Dataset) -> tuple[TrainState, dict[str, Array]]:
            return training.autoencoder_step(
                self.shape, self.autoencoder, loss, descent, self.trainers, data, projection, state, key
            )

        rounds = section.dagger_rounds
        for bound in [descent.steps * (r + 1) // (rounds + 1) for r in range(rounds + 1)]:
            extra = {"dagger_round": self.rounds}
            state = self._steps("autoencoder", step, state, train_key, bound, descent.steps, extra, data)
            params = {"encoder": {"params": state.ema["encoder"], "projection": projection}} | {
                "decoder": state.ema["decoder"]
            }
            finished = bound == descent.steps * (self.rounds + 1) // (rounds + 1)
            if bound < descent.steps and finished and int(state.step) == bound:
                data = self._dagger(archive, params, data, jax.random.fold_in(dagger_key, self.rounds))
        return params, data

    def _dagger(self, archive: Archive, params: PyTree, data: Dataset, key: Key) -> Dataset:
        """Add what decoded policies see, with what their teachers would do there (Ross et al. 2011)."""
        latent_key, label_key, play_key = jax.random.split(key, 3)
        noise = self.config.autoencoder.loss.noise
        given = autoencoder.draw_around(self.encode(params, archive), data.measures, noise, latent_key, label_key)
        students = self.decode(params["decoder"], *given)
        title = f"train: rollouts of decoded policies (DAgger {self.rounds + 1})"
        states = self._rollouts(students, play_key, title)
        longer = add_states(data, states, self._act(archive.policies, states))
        names = ("measures", "weights", "states", "actions", "filled")
        arrays = {name: np.asarray(getattr(longer, name)) for name in names}
        self.rounds += 1
        self._save_data(arrays)
        return self._dataset(archive, **arrays)

    def encode(self, params: PyTree, archive: Archive) -> tuple[Array, Array]:
        """Return mean and standard deviation of all latents `[N, h, w, c]`."""
        encoder = autoencoder.Encoder(self.shape, self.autoencoder)
        encode = jax.jit(
            lambda variables, policies: jax.lax.map(partial(encoder.apply, variables), policies, batch_size=64)
        )
        mean, log_variance = encode(params["encoder"], archive.policies)
        return mean, jnp.exp(0.5 * log_variance)

    def verify(self, params: PyTree, posterior: tuple[Array, Array], measures: Array, key: Key) -> Array:
        """Play policies decoded around the elites, and say `[N]` how much each elite is to be trusted."""
        stored = expand(compress(params["decoder"], self.config.precision))
        missed = verifying.play_draws(
            self.whole,
            posterior,
            measures,
            partial(self.decode, jax.device_put(stored, copied_to(self.mesh))),
            passes.player(self.whole, self.task, self.shape),
            self.grid,
            key,
            self.folder,
            self.about | {"episodes": self.whole.eval.episodes},
            self.log.timer,
            partial(self.log.add, "verify"),
        )
        return jnp.asarray(verifying.trust(missed, self.config.verify.tolerance))

    def train_reader(self, labels: Behaviour, key: Key) -> tuple[Language | None, PyTree, CaptionBank | None]:
        """Learn to read captions of the elites, unless the config or the task has none."""
        if not self.config.language.captions or self.task.torso is None:
            return None, {}, None

        def train(step: Any, state: TrainState, key: Key, steps: int, inputs: PyTree) -> TrainState:
            return self._steps("reader", step, state, key, steps, steps, {}, inputs)

        return reading.train_reader(self.config.language, self.task, np.asarray(labels.traits), key, train)

    def train_denoiser(self, bank: LatentBank, key: Key) -> PyTree:
        """Train the denoiser on all latents; returns its averaged parameters."""
        section = self.config.denoiser
        descent = settings.build(OptimiserConfig, section.optimiser)
        loss = settings.build(training.DiffusionLoss, section.loss)
        network = make_network(self.network, image_shape(self.autoencoder))
        init_key, train_key = jax.random.split(key)
        words = 0 if bank.captions is None else bank.captions.texts.shape[-1]
        one = (bank.mean[0], jnp.zeros(()), nothing(self.task.measures, words=words))
        state = optimiser.start_state(descent, jax.jit(network.init)(init_key, *one)["params"])
        inputs = jax.device_put(bank, copied_to(self.trainers))

        def step(state: TrainState, key: Key, bank: LatentBank) -> tuple[TrainState, dict[str, Array]]:
            return training.diffusion_step(
                network, loss, self.config.sampler.steps, descent, self.trainers, bank, state, key
            )

        return self._steps("diffusion", step, state, train_key, descent.steps, descent.steps, {}, inputs).ema

    def _steps(
        self, phase: str, step: Any, state: TrainState, key: Key, until: int, total: int, extra: dict, inputs: PyTree
    ) -> TrainState:
        """Train from the last checkpoint of this phase, or from `state`, until step `until`."""
        path = self.folder / phase
        if storage.exists(path):
            state, about = storage.load_state(path, state, kind=phase)
            self._check(about)
            if len(about["history"]) > len(self.log.rows):
                self.log.rows[:] = about["history"]
                self.log.timer = session.Timer(about["history"][-1]["seconds"])
        # A copy, for the buffers are donated to the loop and the caller may hold the same arrays.
        state = jax.tree.map(jnp.copy, jax.device_put(state, copied_to(self.trainers)))

        def scan(state: TrainState, key: Key, inputs: PyTree, steps: int) -> tuple[TrainState, dict[str, Array]]:
            return optimiser.scan_steps(lambda s, k: step(s, k, inputs), state, key, steps)

        loop = jax.jit(scan, static_argnames="steps", donate_argnums=0)
        done, chunk = int(state.step), self.config.steps_per_call
        saved = self.log.timer.seconds
        with session.progress(f"train: {phase}", total, done, "step") as bar:
            if done < until:
                with session.working(f"train: compiling the {phase}"):
                    loop.lower(state, key, inputs, min(chunk, until - done)).compile()
            while done < until:
                steps = min(chunk, until - done)
                state, metrics = loop(state, key, inputs, steps)
                done += steps
                row = self.log.add(phase, done, metrics, **extra)
                bar.set_postfix_str(", ".join(f"{name} {row[name]:.4f}" for name in metrics), False)
                bar.update(steps)
                if done == until or self.log.timer.seconds - saved > self.config.checkpoint_seconds:
                    storage.save_state(path, state, kind=phase, about=self.about | {"history": self.log.rows})
                    saved = self.log.timer.seconds
        return state

    def finish(self, generator: PolicyGenerator) -> None:
        """Write the generator, the history and the summary."""
        self.log.scalars.close()
        size = generator.save(self.workdir / "model")
        storage.write_json(self.folder / "history.json", self.log.rows)
        compression = self.archive.nbytes / size
        metrics = {
            "seconds": round(self.log.timer.seconds, 3),
            "policies": int((self.kind == 0).sum()),
            "held_out": int((self.kind > 0).sum()),
            "generator_params": generator.size,
            "generator_bytes": size,
            "compression_bytes": compression,
            **self.about,
        }
        storage.write_json(self.folder / "metrics.json", metrics | session.provenance(self.whole))
        session.say(
            f"train: generator of {size / 1e3:.0f} kB for an archive of {self.archive.nbytes / 1e6:.1f} MB "
            f"({compression:.1f}x) in {metrics['seconds']:.0f} s -> {self.workdir / 'model'}"
        )
