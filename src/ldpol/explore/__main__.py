"""`python -m ldpol.explore [MODEL]`: a page to look at what a model or an archive can do."""

import argparse
import contextlib
import os
import socket
import sys
import threading
import time
import webbrowser
from pathlib import Path

from ldpol.errors import UserError
from ldpol.explore.elsewhere import Stated
from ldpol.explore.source import Source, open_archive, open_model

DEFAULT = "walker2d"
PORT = 8421
EPILOG = """\
examples:
  python -m ldpol.explore                          the model that comes with ldpol
  python -m ldpol.explore runs/demo                a run: its model beside its archive
  python -m ldpol.explore --archive runs/demo      an archive alone: its map, and films of its elites
  python -m ldpol.explore --archive archive.csv --task walker2d --network 64,64,tanh,clip --order torch
  python -m ldpol.explore --export site            the same page without a server, with policies played beforehand
"""


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m ldpol.explore",
        description="Look at what a model or an archive can do, in the browser.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help=f"a run's folder, a model's file, or a name (default: {DEFAULT})"
    )
    parser.add_argument("--archive", metavar="PATH", help="an archive, to be explored without a model")
    theirs = parser.add_argument_group(
        "an archive of QDax or pyribs", "npz, csv, or QDax's npy files hold numbers; these say what they belong to"
    )
    theirs.add_argument("--task", help="robot they control: walker2d, hopper, halfcheetah, ant or humanoid")
    theirs.add_argument("--network", metavar="SIZES", help="widths, activation, final one: 64,64,relu,tanh")
    theirs.add_argument("--order", choices=("flax", "torch", "kernel_bias"), help="layout of a policy's numbers")
    theirs.add_argument("--side", type=int, metavar="N", help="cells of the map a measure (default: the file's, or 50)")
    theirs.add_argument("--backend", help="physics of Brax they were found in (default: spring)")
    theirs.add_argument("--steps", type=int, metavar="N", help="of an episode (default: 500)")
    parser.add_argument("--export", type=Path, metavar="FOLDER", help="write a page that needs no server, and stop")
    parser.add_argument("--cells", type=int, default=300, help="policies of the map in an export (default: 300)")
    parser.add_argument("--host", default="127.0.0.1", help="address to serve at (default: this machine alone)")
    parser.add_argument("--port", type=int, help=f"port to serve at (default: {PORT}, or a free one)")
    parser.add_argument("--no-browser", action="store_true", help="do not open the page")
    options = parser.parse_args(arguments)
    if options.model is not None and options.archive is not None:
        parser.error("give a MODEL or --archive PATH, not both")
    flags = ("task", "network", "order", "side", "backend", "steps")
    if options.archive is None and (given := [name for name in flags if getattr(options, name) is not None]):
        parser.error(f"--{given[0]} says what an archive belongs to; it needs --archive PATH")
    if options.side is not None and options.side < 1:
        parser.error(f"--side must be at least 1, found {options.side}")
    if options.cells < 1:
        parser.error(f"--cells must be at least 1, found {options.cells}")
    return options


def stated(options: argparse.Namespace) -> Stated:
    """Return what the command line says of an archive."""
    settings = {"backend": options.backend, "episode_length": options.steps}
    told = tuple((name, value) for name, value in settings.items() if value is not None)
    return Stated(options.task, told, options.network, options.order, options.side)


def serve(source: Source, options: argparse.Namespace) -> None:
    """Serve the page until interrupted.

    Raises:
      OSError: if the port is taken.
    """
    from werkzeug.serving import WSGIRequestHandler, make_server

    from ldpol.explore.app import create_app, is_loopback, names_of
    from ldpol.explore.explorer import Explorer

    class Quiet(WSGIRequestHandler):
        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Say nothing: the page shows errors itself."""

    port = options.port or _free_port(options.host)
    explorer = Explorer(source)
    server = make_server(
        options.host, port, create_app(explorer, names_of(options.host, port)), threaded=True, request_handler=Quiet
    )
    address = f"http://{f'[{options.host}]' if ':' in options.host else options.host}:{port}/"
    if not is_loopback(options.host):
        print(
            f"explore: WARNING: everyone who can reach {options.host} can use this page and this machine's processor",
            file=sys.stderr,
        )
    print(f"explore: {source.name} at {address}  (Ctrl-C stops it)", flush=True)
    threading.Thread(target=_report, args=(explorer,), daemon=True).start()
    if not options.no_browser:
        threading.Thread(target=_open, args=(address,), daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()
    print("explore: stopped", flush=True)


def _report(explorer: "object") -> None:
    """Say on the terminal when all is ready, or what went wrong."""
    while True:
        status = explorer.status()  # type: ignore[attr-defined]
        if status["trouble"]:
            print(f"explore: {status['trouble']}", file=sys.stderr)
            return
        if all(status["ready"].values()):
            print(f"explore: everything compiled after {status['seconds']:.0f} s", flush=True)
            return
        time.sleep(0.5)


def _open(address: str) -> None:
    with contextlib.suppress(webbrowser.Error):
        webbrowser.open(address)


def _free_port(host: str) -> int:
    """Return the usual port, or any free one if that is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in (PORT, 0):
        with socket.socket(family, socket.SOCK_STREAM) as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return probe.getsockname()[1]
    return PORT


def main(arguments: list[str] | None = None) -> int:
    """Explore; errors a user can mend are one line on stderr and exit code 2."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        source = (
            open_archive(options.archive, stated(options)) if options.archive else open_model(options.model or DEFAULT)
        )
        if options.export is None:
            serve(source, options)
        else:
            from ldpol.explore.export import export

            export(source, options.export, options.cells)
    except (UserError, OSError) as error:
        print(f"explore: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # a thread may be compiling, and Python's own way to end would abort under it
