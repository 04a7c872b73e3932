"""The console's files, as they came with the package: read and packed once, so that no request touches the disk.

`make console` builds them from console/; soldiom_ray/console/sources.json holds the hash of what they were built
from."""

import gzip
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

from starlette.requests import Request
from starlette.responses import Response

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script';"
    " trusted-types 'none'"
)
"""Nothing inline, nothing from elsewhere, and no text becomes markup. Pictures of datasets are data: addresses."""
PAGE_HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "X-Frame-Options": "DENY",
}
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""Files of other kinds are not served: sources.json is one."""
INDEX = "index.html"


@dataclass(frozen=True, slots=True)
class BundledFile:
    """One file of the console, plain and packed. `fixed`: its name holds a hash of its content."""

    data: bytes
    packed: bytes
    media_type: str
    etag: str
    fixed: bool

    def response(self, request: Request, login: str = "") -> Response:
        """The file, packed for whoever takes it packed; 304 for whoever has it. `login` is the origin of the provider
        whose logins are taken: a page may fetch its token there."""
        headers = {
            "Cache-Control": "public, max-age=31536000, immutable" if self.fixed else "no-cache",
            "ETag": self.etag,
            "Vary": "Accept-Encoding",
        }
        if self.media_type.startswith("text/html"):
            headers |= PAGE_HEADERS
            headers["Content-Security-Policy"] = POLICY.replace(
                "connect-src 'self'", f"connect-src 'self' {login}".strip()
            )
        if self.etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        if "gzip" not in request.headers.get("accept-encoding", ""):
            return Response(self.data, media_type=self.media_type, headers=headers)
        return Response(self.packed, media_type=self.media_type, headers=headers | {"Content-Encoding": "gzip"})


@cache
def bundle() -> dict[str, BundledFile]:
    """The files by their path within the bundle; empty where the package came without them."""
    return {
        name: BundledFile(
            data=data,
            packed=gzip.compress(data, 9, mtime=0),
            media_type=MEDIA_TYPES[ending],
            etag=f'"{hashlib.sha256(data).hexdigest()[:32]}"',
            fixed=name.startswith("assets/"),
        )
        for name, data in _files(files("soldiom_ray") / "console", "")
        if (ending := "." + name.rpartition(".")[2]) in MEDIA_TYPES
    }


def _files(folder: Traversable, prefix: str) -> Iterator[tuple[str, bytes]]:
    if not folder.is_dir():
        return
    for entry in sorted(folder.iterdir(), key=lambda each: each.name):
        if entry.is_dir():
            yield from _files(entry, f"{prefix}{entry.name}/")
        else:
            yield f"{prefix}{entry.name}", entry.read_bytes()
