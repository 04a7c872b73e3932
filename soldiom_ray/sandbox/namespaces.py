"""A process's own view of the machine: nothing but Python's files, read-only, and an empty /tmp in memory; no network;
no process but its own. Linux namespaces, as root or, where the kernel lets users have them, without."""

import ctypes
import os
import platform
from pathlib import Path

_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
_READ_ONLY, _NO_SUID, _NO_DEVICES, _REMOUNT, _BIND, _RECURSIVE, _PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
_KEPT = {2: 2, 4: 4, 8: 8, 1024: 1024, 2048: 2048, 4096: 1 << 21}
"""Flags of a mounted file system (statvfs) that a user may not take off, as flags of mount."""
_DETACH = 2
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
TEMPORARY = "/tmp"  # noqa: S108 (the program's own)
SYSTEM_FOLDERS = ("/usr", "/lib", "/lib64")


def enter(shown: list[str], temporary_bytes: int) -> None:
    """Take this process and its later children into namespaces of their own, where only the folders `shown` and the
    system's libraries exist. Its next child is the first process there: when that ends, the kernel ends all others.

    OSError where the kernel refuses; the process may then be half inside."""
    user, group = os.geteuid(), os.getegid()
    separate = _NEWNS | _NEWUTS | _NEWIPC | _NEWPID | _NEWNET
    if user == 0:
        _call("unshare", separate)
    else:
        _call("unshare", separate | _NEWUSER)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"1000 {user} 1")
        Path("/proc/self/gid_map").write_text(f"1000 {group} 1")
    _mount(None, "/", None, _RECURSIVE | _PRIVATE)
    root = "/proc"  # a folder that every machine has and nothing is shown of: it is covered here only
    _mount("tmpfs", root, "tmpfs", _NO_SUID | _NO_DEVICES, f"size={temporary_bytes},mode=755")
    for path in [*_DEVICES, *SYSTEM_FOLDERS, *shown]:
        _show(path, root)
    for folder, mode in ((TEMPORARY, 0o1777), ("/old", 0o700)):
        Path(root + folder).mkdir(exist_ok=True)
        Path(root + folder).chmod(mode)
    _call_number(_PIVOT_ROOT[platform.machine()], root.encode(), f"{root}/old".encode())
    os.chdir("/")
    _call("umount2", b"/old", _DETACH)
    Path("/old").rmdir()


def _show(path: str, root: str) -> None:
    """A folder or device of the machine in the new root, at its own place and read-only."""
    source, target = Path(path), Path(root + path)
    if source.is_symlink():
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.is_symlink():
            target.symlink_to(source.readlink())
        return
    if not source.exists() or target.exists():
        return
    if source.is_dir():
        target.mkdir(parents=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    _mount(path, str(target), None, _BIND)
    kept = sum(flag for bit, flag in _KEPT.items() if os.statvfs(target).f_flag & bit)
    _mount(None, str(target), None, _REMOUNT | _BIND | _READ_ONLY | kept)


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    texts = (source, target, kind)
    _call("mount", *(text.encode() if text else None for text in texts), flags, options.encode() if options else None)


def _call(name: str, *arguments: bytes | int | None) -> None:
    wrapped = [ctypes.c_ulong(each) if isinstance(each, int) else each for each in arguments]
    _check(getattr(_LIBC, name)(*wrapped), name)


def _call_number(number: int, *arguments: bytes) -> None:
    _check(_LIBC.syscall(ctypes.c_long(number), *arguments), f"system call {number}")


def _check(result: int, name: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


_LIBC = ctypes.CDLL(None, use_errno=True)
