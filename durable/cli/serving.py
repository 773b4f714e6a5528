"""`durable serve`: an engine of a module, with its ingress and its admin API."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

from durable import log
from durable.cli.commands import Desk, command
from durable.cli.exits import unreachable, usage
from durable.cli.naming import named
from durable.cli.places import Need, token_of
from durable.core.duration import parse
from durable.engine import Engine
from durable.errors import StorageError, UsageError

#: Tells the process that serves, of the two that `--reload` makes.
_RELOADED = "_DURABLE_RELOADED"
_LOOK_EVERY_S = 0.5
_group = click.Group("serving")


def add_to(root: click.Group) -> None:
    """Have the program know this command."""
    root.add_command(serve)


@command(_group, "serve", Need.NOTHING, json=False)
@click.argument("target", metavar="MODULE:ENGINE")
@click.option("--ingress", "ingress_at", metavar="HOST:PORT", default="127.0.0.1:8080", show_default=True,
              help="Address of the ingress, or 'off'.")  # fmt: skip
@click.option("--admin", "admin_at", metavar="HOST:PORT", default="127.0.0.1:9070", show_default=True,
              help="Address of the admin API, or 'off'.")  # fmt: skip
@click.option("--allowed-host", "hosts", multiple=True, metavar="NAME",
              help="Another host name under which they may be reached; '*' allows every name.")  # fmt: skip
@click.option(
    "--token-file",
    metavar="FILE",
    help="The file with the bearer token that both ask for; otherwise DURABLE_TOKEN may have it.",
)
@click.option("--promises", is_flag=True, help="Let clients of the ingress settle promises of public workflows.")
@click.option("--signals", is_flag=True, help="Let clients of the ingress send signals to invocations.")
@click.option("--backup-folder", metavar="FOLDER", help="The folder in which the admin API may write backups.")
@click.option(
    "--grace",
    metavar="DURATION",
    default="3s",
    show_default=True,
    help="How long clients may go on waiting at the end.",
)
@click.option(
    "--reload", is_flag=True, help="For development: restart whenever a Python file in this folder changes."
)
async def serve(
    desk: Desk,
    target: str,
    ingress_at: str,
    admin_at: str,
    hosts: tuple[str, ...],
    token_file: str | None,
    promises: bool,
    signals: bool,
    backup_folder: str | None,
    grace: str,
    reload: bool,
) -> None:
    """Run an engine, with the ingress and the admin API over HTTP, until Ctrl-C or SIGTERM.

    MODULE:ENGINE names a variable of a module that has the engine, or a function without arguments that makes one:
    'durable serve shop.main:engine'.
    """
    if reload and _RELOADED not in os.environ:
        _supervise()
        return
    (host, port), (admin_host, admin_port) = _address("--ingress", ingress_at), _address("--admin", admin_at)
    if port is None and admin_port is None:
        raise usage("--ingress and --admin are both off: there is nothing to serve")
    try:
        grace_ms = parse(grace)
    except ValueError as error:
        raise usage(f"--grace: {error}") from None
    from durable import admin, ingress, serving  # only where it is wanted: each TAB in a shell starts this program

    engine = named(target, Engine, "an Engine", "shop.main:engine")
    options: dict[str, Any] = {"token": token_of(token_file)}
    if hosts:
        options["allowed_hosts"] = ["localhost", "127.0.0.1", "[::1]", *hosts]
    try:
        url = f"http://{ingress_at}" if port else None
        operating = admin.create_app(engine, ingress_url=url, backup_folder=backup_folder, **options)
        invoking = ingress.create_app(engine, promises=promises, signals=signals, **options)
    except ValueError as error:
        raise usage(str(error)) from None
    endpoints = serving.endpoints_of(
        engine, host=host, port=port, admin_host=admin_host, admin_port=admin_port, ingress_app=invoking,
        admin_app=operating,
    )  # fmt: skip

    def ready(urls: dict[str, str]) -> None:
        for name, url in urls.items():
            desk.out.note(f"{name} on {url}")

    log.to_stderr()
    try:
        await serving.serve(engine, endpoints, grace_s=grace_ms / 1000, ready=ready)
    except (UsageError, StorageError) as error:
        raise unreachable(str(error)) from None


def _address(option: str, text: str) -> tuple[str, int | None]:
    if text == "off":
        return "", None
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65_535:
        raise usage(f"{option} {text!r}: expected HOST:PORT, such as 127.0.0.1:8080, or off")
    return host.strip("[]"), int(port)


# ---- starting again ----


def _supervise() -> None:
    """Run the same command in a child, and again whenever a Python file below this folder changes."""
    ended = False

    def end(number: int, frame: object) -> None:
        nonlocal ended
        ended = True

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while not ended:
            seen = _changes()
            child = subprocess.Popen(
                [sys.executable, "-m", "durable", *sys.argv[1:]], env={**os.environ, _RELOADED: "1"}
            )
            try:
                while not ended and _changes() == seen:
                    time.sleep(_LOOK_EVERY_S)
            finally:
                child.terminate()
                child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _changes() -> dict[str, int]:
    found: dict[str, int] = {}
    for folder, folders, names in os.walk("."):
        folders[:] = [
            one for one in folders if not one.startswith(".") and one not in ("__pycache__", "node_modules")
        ]
        for name in names:
            if name.endswith(".py"):
                path = str(Path(folder) / name)
                try:
                    found[path] = os.stat(path).st_mtime_ns
                except OSError:
                    continue
    return found
