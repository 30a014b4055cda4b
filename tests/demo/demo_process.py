"""Run the demo as its users do: as a process, in a folder of its own, without a terminal."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

ROOT = Path(__file__).resolve().parent.parent.parent


async def start(folder: Path, *arguments: str, **variables: str) -> Process:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NEXUS_")}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "nexus.demo", "--data", str(folder), *arguments),
        env=kept | {"PYTHONPATH": str(ROOT / "src"), "CI": "true"} | variables,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
    )


async def run(folder: Path, *arguments: str, **variables: str) -> tuple[int | None, str, str]:
    """Return exit code, stdout and stderr."""
    process = await start(folder, *arguments, **variables)
    try:
        async with asyncio.timeout(90):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, out.decode(), err.decode()


async def report(folder: Path, *arguments: str, **variables: str) -> dict[str, Any]:
    code, out, err = await run(folder, "-o", "json", *arguments, **variables)
    assert code == 0, err
    found: dict[str, Any] = msgspec.json.decode(out)
    return found


async def worker_of(process: Process) -> int:
    """Wait until the demo says which worker process it started."""
    assert process.stderr is not None
    async with asyncio.timeout(30):
        async for line in process.stderr:
            match = re.search(rb"process (\d+) runs the groups", line)
            if match:
                return int(match[1])
    raise AssertionError("the demo ended without a worker")


async def until(true: Callable[[], bool], deadline_s: float = 15.0) -> None:
    start = time.monotonic()
    while not true():
        assert time.monotonic() - start < deadline_s, f"not within {deadline_s} s"
        await asyncio.sleep(0.02)


def is_running(pid: int) -> bool:
    """Tell whether a process runs; one that has ended and waits to be collected does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:  # not Linux, or it ended this moment
        return Path("/proc/self").exists() is False
