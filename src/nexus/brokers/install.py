"""Fetching programs: each is built in a folder beside its own and renamed, so that it is there whole or not at all."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from nexus.brokers.errors import BrokerFailed, MissingProgram
from nexus.brokers.place import base_folder

COMMAND_LIMIT_S = 600.0


def programs_folder() -> Path:
    """Return the folder of all that was fetched."""
    return base_folder() / "programs"


def installed(name: str, build: Callable[[Path, Path], object]) -> Path:
    """Return the folder of a program; ``build(part, folder)`` fills ``part``, which becomes ``folder``."""
    folder = programs_folder() / name
    if folder.exists():
        return folder
    part = folder.with_name(f"{name}.part")
    shutil.rmtree(part, ignore_errors=True)  # from an install that was killed
    part.mkdir(parents=True)
    try:
        build(part, folder)
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def run(
    command: Sequence[str],
    *,
    what: str,
    hint: str | None = None,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a command to its end and return what it printed. Raises `BrokerFailed` with its last lines."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=COMMAND_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BrokerFailed(f"{what}: {command[0]} took more than {COMMAND_LIMIT_S:g} s", hint=hint) from None
    except OSError as error:
        raise MissingProgram(f"{what}: {command[0]} cannot be run: {error}", hint=hint) from None
    if done.returncode:
        last = "\n".join(f"  {line}" for line in done.stdout.splitlines()[-20:])
        raise BrokerFailed(f"{what}: {Path(command[0]).name} ended with {done.returncode}\n{last}", hint=hint)
    return done.stdout


def pip_install(requirement: str, target: Path, *, hint: str) -> None:
    """Install one pinned package from the registry that this machine's pip is set to, into a folder of its own."""
    if find_spec("pip"):
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check",
                   "--root-user-action=ignore"]  # fmt: skip
    elif uv := shutil.which("uv"):
        command = [uv, "pip", "install", "--quiet", "--python", sys.executable]
    else:
        raise MissingProgram(
            f"{requirement} is to be fetched, and there is neither pip nor uv",
            hint=f"{sys.executable} -m ensurepip",
        )
    run([*command, "--no-deps", "--target", str(target), requirement], what=f"fetching {requirement}", hint=hint)
