"""`python -m ldpol.experiments STAGE --config FILE:VARIANT --workdir FOLDER [--config.key=value ...]`."""

import argparse
import importlib
import sys
from pathlib import Path

STAGES = {"import": "importing"}
"""Modules of the stages that are not called like them."""
DESCRIPTION = """\
From a quality-diversity archive to one generative model of its policies. The stages, in order:

  archive    search for elites: MAP-Elites, PPGA or both  -> WORKDIR/archive
  import     or: one from elsewhere, by the config file  -> WORKDIR/archive
  train      autoencoder, then latent diffusion           -> WORKDIR/train, WORKDIR/model
  evaluate   roll everything out, compare, count cells    -> WORKDIR/eval
  report     figures and one HTML page                    -> WORKDIR/report.html

And of its own, many models of one archive compared:

  study      ours, the published method, baselines        -> WORKDIR/retention.json

An interrupted stage goes on where it stopped when the same command is given again.
"""

EPILOG = """\
configs and variants:
  experiments/walker2d.py:cpu     the default: two CPU cores, under twenty minutes in all
  experiments/walker2d.py:smoke   a minute, to see that everything runs
  experiments/walker2d.py:large   two cores and some hours, the scale of the paper
  experiments/walker2d.py:gpu     one accelerator, likewise
  experiments/walker2d.py:paper   the published method, unchanged
  a search before it chooses what makes the archive: map_elites_cpu, ppga_cpu, hybrid_cpu, ppga_gpu, ...
  likewise hopper.py, halfcheetah.py, ant.py, humanoid.py

  experiments/studies/retention.py, for the study alone

any key of the config can be set: --config.seed=1 --config.archive.iterations=20
(see the config with --show); what evaluate measures: --config.eval.suites=reconstruction,guidance

example:
  python -m ldpol.experiments archive --config experiments/walker2d.py:cpu --workdir runs/demo
"""


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Split the command line into options and config overrides."""
    parser = argparse.ArgumentParser(
        prog="python -m ldpol.experiments",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("stage", choices=("archive", "import", "train", "evaluate", "report", "study"), metavar="STAGE")
    parser.add_argument("--config", required=True, metavar="FILE:VARIANT", help="Python file with get_config(variant)")
    parser.add_argument(
        "--workdir", type=Path, metavar="FOLDER", help="where the run lives (a study: runs/ and the config's name)"
    )
    parser.add_argument("--show", action="store_true", help="print the config with all overrides and stop")
    overrides, rest = [], []
    pending = iter(arguments)
    for argument in pending:
        if argument.startswith("--config."):
            text = argument.removeprefix("--config.")
            overrides.append(text if "=" in text else f"{text}={next(pending, '')}".removesuffix("="))
        else:
            rest.append(argument)
    options = parser.parse_args(rest)
    if options.workdir is None:
        if options.stage != "study":
            parser.error("the following arguments are required: --workdir")
        options.workdir = Path("runs") / Path(options.config.partition(":")[0]).stem
    return options, overrides


def main(arguments: list[str] | None = None) -> int:
    """Run one stage; errors a user can mend are one line on stderr and exit code 2."""
    options, overrides = parse(sys.argv[1:] if arguments is None else arguments)
    # Imported late, so that --help and a wrong command line answer at once.
    from ldpol import session, storage
    from ldpol.errors import UserError
    from ldpol.experiments import configs

    try:
        config = configs.load_config(options.config, overrides)
        if options.show:
            print(config)
            return 0
        with storage.lock(options.workdir / ".lock", str(options.workdir)):
            if options.stage == "report":
                from ldpol.report import write_page

                session.say(f"report: {write_page(options.workdir)}")
                return 0
            session.start_jax()
            stage = importlib.import_module(f"ldpol.experiments.{STAGES.get(options.stage, options.stage)}")
            if options.stage == "study":
                stage.run(config, options.workdir, configs.load_module(options.config.partition(":")[0]).rows)
            else:
                configs.check(config)
                stage.run(config, options.workdir)
    except (UserError, OSError) as error:
        print(f"\n{options.stage}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{options.stage}: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
