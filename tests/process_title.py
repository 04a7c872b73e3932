"""What a process is called, also while it ends."""

import psutil


def title_of(process: psutil.Process) -> str:
    """Its command line, or the title that it has given itself; "" for one that is gone or ends."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
