"""What stands beside the file: who is alive, and whether the place is fit for a store.

In ``<file>-nexus/`` every open store has a lock file of its own, locked for as long as its process lives: the system
lets go of it however the process ends. So others see a death at once, without trusting any clock.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import time
import weakref

from nexus.errors import ReadOnly, SettingsError, Unavailable

_NETWORK = {"9p", "afs", "ceph", "cifs", "davfs", "fuse.sshfs", "glusterfs", "lustre", "nfs", "nfs4", "smb3", "smbfs"}
_NETWORK_PREFIXES = ("fuse.gluster", "fuse.rclone", "fuse.s3", "fuse.ceph", "fuse.davfs")


def _read_boot_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:  # not Linux; the monotonic clock starts anew with the machine, and leases are short
        return "unknown"


BOOT_ID = _read_boot_id()
"""Which start of the machine this is. Times of `boot_time` can be compared only within one."""

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boot_time() -> float:
    """Seconds since the machine started, the same for all processes, sleep included. Never set, unlike wall time."""
    return time.clock_gettime(_CLOCK)


def refuse_network(path: str, mounts: str | None = None) -> None:
    """Raise `SettingsError` if ``path`` is on a network file system: its locks cannot be trusted."""
    if mounts is None:
        try:
            with open("/proc/self/mountinfo") as file:
                mounts = file.read()
        except OSError:
            return
    best, kind = "", ""
    for line in mounts.splitlines():
        fields, _, rest = line.partition(" - ")
        point = fields.split(" ")[4].replace("\\040", " ")
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, rest.split(" ")[0]
    if kind in _NETWORK or kind.startswith(_NETWORK_PREFIXES):
        raise SettingsError(
            f"{path} is on a network file system ({kind}), where SQLite's locks do not hold",
            hint="choose a path on a local disk",
        )


_open_locks: weakref.WeakSet[Presence] = weakref.WeakSet()


class Presence:
    """This store's sign of life, and how to look for the others'. Used by one thread at a time."""

    def __init__(self, path: str) -> None:
        """Make the folder and the lock. Raises `ReadOnly` or `Unavailable`."""
        self.folder = path + "-nexus"
        self.name = f"{os.getpid()}-{secrets.token_hex(6)}"
        try:
            os.makedirs(self.folder, exist_ok=True)  # and what is above it: the default file stands in `.nexus`
            self.folder_fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
            # Locked before it gets its name: a lock file that is not locked means a dead process.
            self._fd = os.open(self._path(".new"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            os.rename(self._path(".new"), self._path(".lock"))
        except PermissionError as error:
            raise ReadOnly(f"cannot write to {self.folder}", hint="check the permissions of the directory") from error
        except OSError as error:
            if error.errno == errno.EROFS:
                raise ReadOnly(f"{self.folder} is on a read-only file system") from error
            raise Unavailable(f"cannot make {self.folder}: {error}") from error
        _open_locks.add(self)

    def _path(self, ending: str, name: str | None = None) -> str:
        return os.path.join(self.folder, (name or self.name) + ending)

    def socket_path(self, name: str | None = None) -> str:
        """Path of a process's socket, short however deep the folder is (a socket's path may have 107 bytes)."""
        short = f"/proc/self/fd/{self.folder_fd}"
        folder = short if os.path.isdir(short) else self.folder
        return os.path.join(folder, (name or self.name) + ".sock")

    def others(self) -> list[str]:
        """Names of all other stores that are, or were, open on the file."""
        try:
            names = os.listdir(self.folder)
        except OSError:
            return []
        return [n[:-5] for n in names if n.endswith(".lock") and n[:-5] != self.name]

    def is_dead(self, name: str) -> bool:
        """Tell whether a store's process ended without closing it; clears away what it left."""
        try:
            fd = os.open(self._path(".lock", name), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        else:
            for ending in (".sock", ".lock"):
                with contextlib.suppress(OSError):
                    os.unlink(self._path(ending, name))
            return True
        finally:
            os.close(fd)

    def close(self) -> None:
        """Take the sign of life away. Idempotent."""
        if self._fd < 0:
            return
        for ending in (".sock", ".lock"):
            with contextlib.suppress(OSError):
                os.unlink(self._path(ending))
        self.let_go()

    def let_go(self) -> None:
        """Close the files, and leave them where they are."""
        if self._fd >= 0:
            os.close(self._fd)
            os.close(self.folder_fd)
            self._fd = self.folder_fd = -1


def _after_fork() -> None:
    # A forked child shares the lock, and would keep its parent alive in the eyes of others.
    for presence in list(_open_locks):
        presence.let_go()


os.register_at_fork(after_in_child=_after_fork)
