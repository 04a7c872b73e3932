"""Licence texts as sets of hashed word runs (n-grams): how a text becomes runs, and the file with those of the known
licences.

The file `fingerprints.npz` holds hashes, no texts: the runs of four words of every licence on the SPDX list (without
exceptions and deprecated ids), for long texts a sample by hash. `python -m soldiom_ray.licenses.fingerprints FOLDER`
makes it from a folder of texts: `<SPDX id>.txt` as in SPDX's license-list-data, or ScanCode's `*.LICENSE` with its
front matter.
"""

import re
import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RUN_WORDS = 4
FULL_RUNS = 400
SAMPLED_RUNS = 160
"""Texts of more than FULL_RUNS runs are sampled to about SAMPLED_RUNS: enough to recognise them, in a sixth of the
space."""

FILE = Path(__file__).with_name("fingerprints.npz")
PRIME = 0x01000193

COPYRIGHT = re.compile(
    r"^[^\w\n]*(?:portions |all )?(?:copyright\b|\(c\)|\u00a9)"
    r"(?![^\n]*(?:notice|holder|owner|license|permission|statement|law))[^\n]*$"
    r"|^[^\w\n]*all rights reserved\.?[^\w\n]*$",
    re.M,
)
BULLET = re.compile(r"^[^\w\n]*(?:\(?(?:\d{1,2}|[a-u]|[ivx]{2,4})[.)]+)[ \t]", re.M)
WORD = re.compile(r"[a-z0-9]+")
END = re.compile(r"(?i)end of (?:the )?terms and conditions")
NOT_FINGERPRINTED = frozenset(
    ("any-OSI", "MPL-2.0-no-copyleft-exception", "OFL-1.1-no-RFN", "OFL-1.0-no-RFN", "OFL-1.1-RFN", "IJG-short")
)
"""Notices and variants whose text is (nearly) that of another licence, so that they have no fingerprints."""

SPELLINGS = {
    "licence": "license", "licences": "licenses", "licenced": "licensed", "sublicence": "sublicense", "favour": "favor",
    "organisation": "organization", "organisations": "organizations", "acknowledgement": "acknowledgment",
    "judgement": "judgment", "whilst": "while", "wilful": "willful", "authorised": "authorized", "https": "http",
    "analogue": "analog", "artefact": "artifact", "behaviour": "behavior", "centre": "center", "defence": "defense",
    "fulfil": "fulfill", "labour": "labor", "owners": "holders", "owner": "holder", "programme": "program",
    "realise": "realize", "recognise": "recognize", "utilisation": "utilization", "cancelled": "canceled",
    "signalling": "signaling",
}  # fmt: skip
"""Spellings that the SPDX matching guidelines (annex B of the specification) treat as equal."""


@dataclass(frozen=True, slots=True)
class Fingerprints:
    """The runs of all known licences: sorted `hashes` [runs], each with the number of its licence in `owners` [runs];
    by that number the `names`, the number of runs (`sizes`), and the binary logarithm of the sampling step
    (`steps`)."""

    names: tuple[str, ...]
    hashes: "NDArray[np.uint32]"
    owners: "NDArray[np.uint16]"
    sizes: "NDArray[np.int32]"
    steps: "NDArray[np.uint8]"


def words_of(text: str) -> list[str]:
    """The words by which licences are compared: without copyright lines, bullets, punctuation and spelling variants."""
    normalized = text.lower().replace("\u2019", "'").replace("n't", "nt").replace("'s", "s")
    normalized = BULLET.sub("", COPYRIGHT.sub("", normalized))
    return [SPELLINGS.get(word, word) for word in WORD.findall(normalized)]


def runs_of(words: list[str]) -> "NDArray[np.uint32]":
    """The hash of each run of RUN_WORDS words, in order: uint32 [words - RUN_WORDS + 1]."""
    import numpy as np

    word_hashes: dict[str, int] = {}
    hashed = np.array(
        [word_hashes.get(word) or word_hashes.setdefault(word, zlib.crc32(word.encode())) for word in words], np.uint32
    )
    if len(hashed) < RUN_WORDS:
        return np.empty(0, np.uint32)
    runs = np.zeros(len(hashed) - RUN_WORDS + 1, np.uint32)
    for offset in range(RUN_WORDS):
        runs *= np.uint32(PRIME)
        runs ^= hashed[offset : len(hashed) - RUN_WORDS + 1 + offset]
    runs ^= runs >> np.uint32(15)
    return runs * np.uint32(0x2C1B3C6D)


@lru_cache(1)
def load() -> Fingerprints:
    """The fingerprints that come with the package."""
    import numpy as np

    with np.load(FILE) as stored:
        names = tuple(bytes(stored["names"]).decode().split("\n"))
        return Fingerprints(names, stored["hashes"], stored["owners"], stored["sizes"], stored["steps"])


def make_fingerprints(texts: Mapping[str, Sequence[str]]) -> Fingerprints:
    """Fingerprints of texts by SPDX id; an id may have several texts."""
    import numpy as np

    names: list[str] = []
    hashes, owners, sizes, steps = [], [], [], []
    for name, text in sorted((name, text) for name, versions in texts.items() for text in versions):
        runs = np.unique(runs_of(words_of(text)))
        step = 0
        while len(runs) > FULL_RUNS and len(runs) >> step > SAMPLED_RUNS:
            step += 1
        runs = runs[runs & np.uint32((1 << step) - 1) == 0]
        if len(runs) >= RUN_WORDS:
            hashes.append(runs)
            owners.append(np.full(len(runs), len(names), np.uint16))
            names.append(name)
            sizes.append(len(runs))
            steps.append(step)
    order = np.argsort(np.concatenate(hashes), kind="stable")
    return Fingerprints(
        tuple(names),
        np.concatenate(hashes)[order],
        np.concatenate(owners)[order],
        np.array(sizes, np.int32),
        np.array(steps, np.uint8),
    )


def read_texts(folder: Path) -> dict[str, list[str]]:
    """SPDX id -> texts in a folder of either layout. What follows "end of terms and conditions" is advice on use that
    many files omit, so such a text is returned both with and without it."""
    texts = {path.stem: path.read_text(encoding="utf-8") for path in folder.glob("*.txt")}
    for path in folder.glob("*.LICENSE"):
        _, head, body = [*path.read_text(encoding="utf-8").split("---\n", 2), "", ""][:3]
        name = re.search(r"^spdx_license_key: (\S+)", head, re.M)
        is_listed = name and not name[1].startswith("LicenseRef")
        if name and is_listed and not re.search(r"^is_(?:deprecated|exception): yes", head, re.M):
            texts[name[1]] = body
    return {
        name: [text, *((END.split(text)[0],) if END.search(text) else ())]
        for name, text in texts.items()
        if name not in NOT_FINGERPRINTED
    }


def main(folder: str) -> None:
    """Write `fingerprints.npz` from a folder of texts."""
    import numpy as np

    fingerprints = make_fingerprints(read_texts(Path(folder)))
    names = np.frombuffer("\n".join(fingerprints.names).encode(), np.uint8)
    np.savez_compressed(
        FILE,
        names=names,
        hashes=fingerprints.hashes,
        owners=fingerprints.owners,
        sizes=fingerprints.sizes,
        steps=fingerprints.steps,
    )
    sys.stdout.write(
        f"{len(fingerprints.names)} licences, {len(fingerprints.hashes)} runs, {FILE.stat().st_size} bytes\n"
    )


if __name__ == "__main__":
    main(sys.argv[1])
