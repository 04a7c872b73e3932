"""Files that tell of a data set and are none of its data: its licence, its sources, its README. Beside data they are no
texts to learn; what licence they name is that of the files beside them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from soldiom_ray import licenses
from soldiom_ray.domains.access import Folders, is_within
from soldiom_ray.domains.file_types import FAMILY_OF_ENDING

ABOUT_THE_DATA = "about_the_data"
WHY = "tells of the data beside it and is no part of it; name it by itself to read it"
_LEGAL = re.compile(
    r"(?:(?:licen[cs]e|copying|unlicense)s?(?:[._-][\w.-]+)?"
    r"|(?:notices?|copyright|sources?|citation|attribution|third[ _-]party[ _-]notices?)(?:\.\w+)?)",
    re.IGNORECASE,
)
_DESCRIBING = re.compile(
    r"(?:readme|read[ _-]me|about|data[ _-]?(?:set)?[ _-]?(?:card|sheet|description)|datasheets?"
    r"|changelog|changes|authors|contributing|contributors"
    r"|code_of_conduct|terms[ _-]of[ _-]use|disclaimer)(?:[._-]\w+)*",
    re.IGNORECASE,
)
_LICENSE_FILE = re.compile(r"(?:licen[cs]e|copying|unlicense)(?:\.\w+)?", re.IGNORECASE)
_STATED = re.compile(
    r"^[ \t]*(?:[*-] )?[*_]*licen[cs]e[*_]*[ \t]*:[*_]*[ \t]*[\"']?([^\n\"']{2,80}?)[\"']?[ \t]*$",
    re.IGNORECASE | re.MULTILINE,
)
_DATA = ("table", "json", "parquet", "sqlite", "sql", "workbook", "arrays")
_MAX_CHARACTERS = 200_000


@dataclass(frozen=True)
class AboutData:
    """`files` tell of data; `licenses` has the licence that a folder's files name, by the folder, "" for the
    outermost."""

    files: frozenset[str]
    licenses: Mapping[str, str]

    def license_of(self, name: str) -> str:
        """The licence of the nearest folder above a file that names one."""
        parents = (str(parent) for parent in PurePosixPath(name).parents)
        return next((self.licenses[parent] for parent in parents if parent in self.licenses), "")


def about_data(files: Mapping[str, Path], folders: Folders, *, pictures: bool) -> AboutData:
    """Which of a folder's files tell of the data beside and below them. A licence does where any file is data, a README
    where all are."""
    kinds = {name: kind for name in files if (kind := _kind(name))}
    data = (*_DATA, "image") if pictures else _DATA
    counts: dict[str, list[int]] = {}
    for name in files.keys() - kinds.keys():
        is_data = FAMILY_OF_ENDING.get(PurePosixPath(name.lower()).suffix, "text") in data
        for parent in PurePosixPath(name).parents:
            of_folder = counts.setdefault(str(parent), [0, 0])
            of_folder[0] += is_data
            of_folder[1] += not is_data
    found: set[str] = set()
    for name, kind in kinds.items():
        some, others = counts.get(str(PurePosixPath(name).parent), (0, 0))
        if some and (kind == "legal" or not others):
            found.add(name)
    named: dict[str, str] = {}
    # What a README or a list of sources states is said of the data; a licence's text may be that of a program.
    for name in sorted(found, key=lambda name: (bool(_LICENSE_FILE.fullmatch(PurePosixPath(name).name)), name)):
        folder = str(PurePosixPath(name).parent)
        if folder not in named and is_within(files[name], folders) and (spdx := _license_in(name, files[name])):
            named[folder] = spdx
    return AboutData(frozenset(found), named)


def _kind(name: str) -> str:
    """legal, describing, or "" for a file that may be data."""
    path = PurePosixPath(name)
    if FAMILY_OF_ENDING.get(path.suffix.lower(), "text") not in ("text", "html", "pdf"):
        return ""
    if _LEGAL.fullmatch(path.name):
        return "legal"
    return "describing" if _DESCRIBING.fullmatch(path.name) else ""


def _license_in(name: str, path: Path) -> str:
    """The licence that a file states or is."""
    if PurePosixPath(name).suffix.lower() == ".pdf":
        return ""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            text = file.read(_MAX_CHARACTERS)
    except OSError:
        return ""
    stated = [spdx for match in _STATED.finditer(text) if (spdx := licenses.from_name(match[1].strip()))]
    if len(set(stated)) == 1:
        return stated[0]
    return licenses.from_text(text) if _LICENSE_FILE.fullmatch(PurePosixPath(name).name) else ""
