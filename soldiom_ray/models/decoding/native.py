"""kernels.c, compiled where there is a C compiler, as operations on tensors.

Between two products of a layer torch needs about thirty operations of 3 to 15 microseconds each; of one stream of
SmolLM2-135M that is as much as the products themselves, and of 32 streams three times as much. Where nothing can be
compiled (no compiler, no Linux, a GPU), torch computes the same.
"""

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)
SOURCE = Path(__file__).with_name("kernels.c")
FLAGS = (
    "-O3",
    "-march=native",
    "-mprefer-vector-width=512",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-shared",
    "-fPIC",
)
"""Without -ffast-math: sums keep the order that the source gives them."""
COMPILE_SECONDS = 60
_POINTER, _SIZE, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
_SIGNATURES: dict[str, Sequence[Any]] = {
    "add_norm": (*[_POINTER] * 4, *[_SIZE] * 2, _FLOAT),
    "rotate": (*[_POINTER] * 5, *[_SIZE] * 4),
    "attend": (*[_POINTER] * 6, *[_SIZE] * 8, _FLOAT),
    "gate": (*[_POINTER] * 2, *[_SIZE] * 2),
    "add_low_rank": (*[_POINTER] * 5, *[_SIZE] * 5),
}


class Kernels:
    """The functions of kernels.c for one element type. Tensors are on the CPU and of that type; those that are not said
    to be strided are contiguous. Threads are OpenMP's, whose number `torch.set_num_threads` sets."""

    def __init__(self, library: ctypes.CDLL) -> None:
        for name, types in _SIGNATURES.items():
            function = getattr(library, name)
            function.argtypes, function.restype = types, None
            setattr(self, f"_{name}", function)

    _add_norm: Any
    _rotate: Any
    _attend: Any
    _gate: Any
    _add_low_rank: Any

    def add_norm(self, states: Tensor, delta: Tensor | None, weight: Tensor, epsilon: float) -> Tensor:
        """`states` [rows, width] grow by `delta`; their RMS norm times `weight`."""
        normed = torch.empty_like(states)
        added = None if delta is None else delta.data_ptr()
        rows, width = states.shape
        self._add_norm(states.data_ptr(), added, weight.data_ptr(), normed.data_ptr(), rows, width, epsilon)
        return normed

    def rotate(self, heads: Tensor, cosines: Tensor, sines: Tensor, pool: Tensor, slots: Tensor) -> None:
        """`heads` [rows, queries and keys and values, width]: rotates queries in place; rotated keys, and values, go to
        `pool` [positions, keys and values, width] at `slots`."""
        rows, all_heads, width = heads.shape
        kv = pool.shape[1] // 2
        pointers = (each.data_ptr() for each in (heads, cosines, sines, pool, slots))
        self._rotate(*pointers, rows, all_heads - 2 * kv, kv, width)

    def attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, ranges: tuple[Tensor, Tensor], scaling: float
    ) -> Tensor:
        """One query for each row: `queries` [rows, heads, width], `keys` and `values` [positions, fewer heads, width]
        are strided in their first dimension. `ranges` are the first positions that a row looks at and their ends."""
        rows, heads, width = queries.shape
        kv, value_width = values.shape[1:]
        output = queries.new_empty(rows, heads, value_width)
        pointers = (each.data_ptr() for each in (queries, keys, values, output, *ranges))
        strides = queries.stride(0), keys.stride(0), values.stride(0)
        self._attend(*pointers, rows, kv, heads // kv, *strides, width, value_width, scaling)
        return output

    def gate(self, gate_up: Tensor) -> Tensor:
        """[rows, 2 * width]: silu of the first half times the second."""
        rows, width = gate_up.shape[0], gate_up.shape[1] // 2
        output = gate_up.new_empty(rows, width)
        self._gate(gate_up.data_ptr(), output.data_ptr(), rows, width)
        return output

    def add_low_rank(self, x: Tensor, y: Tensor, table: Tensor, groups: Tensor, widths: Tensor) -> None:
        """`y` [rows, sum of the parts' `widths`] grows by what the adapters of its rows add to the product of `x`
        [rows, terms]. `table` [adapters, parts, 3] is strided in its first dimension (`adapters.Adapter`), `groups` are
        rows of one adapter: [first, how many, at most 4, adapter]."""
        pointers = (each.data_ptr() for each in (x, y, table, groups, widths))
        self._add_low_rank(*pointers, len(groups), len(widths), table.stride(0), x.shape[1], y.shape[1])


def kernels_for(like: Tensor) -> Kernels | None:
    """Kernels for tensors like this one; None where torch has to compute."""
    return _kernels(like.dtype) if like.device.type == "cpu" else None


@cache
def _kernels(dtype: torch.dtype) -> Kernels | None:
    if dtype not in (torch.bfloat16, torch.float32) or not sys.platform.startswith("linux"):
        return None
    try:
        return Kernels(ctypes.CDLL(str(_compiled(dtype))))
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("decoding without compiled kernels", extra={"data": {"reason": str(error)[:300]}})
        return None


def _compiled(dtype: torch.dtype) -> Path:
    """The library, compiled for this machine unless it has been. OSError or SubprocessError where that fails."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise FileNotFoundError("there is no C compiler")
    # With torch's own OpenMP both wait in the same threads.
    openmp = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    flags = [
        *FLAGS,
        *(["-fopenmp"] if openmp else []),
        *(["-DBF16"] if dtype == torch.bfloat16 else []),
    ]
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")), "")
    made_from = "\n".join((SOURCE.read_text(), *flags, compiler, torch.__version__, cpu))
    folder = Path(tempfile.gettempdir()) / f"soldiom-kernels-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid() or folder.stat().st_mode & 0o077:
        raise PermissionError(f"{folder} is not this user's alone")
    library = folder / f"{hashlib.sha256(made_from.encode()).hexdigest()[:32]}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            made = Path(scratch) / library.name
            command = [compiler, *flags, "-o", str(made), str(SOURCE), "-lm"]
            subprocess.run(command, check=True, capture_output=True, timeout=COMPILE_SECONDS)
            made.replace(library)
    return library
