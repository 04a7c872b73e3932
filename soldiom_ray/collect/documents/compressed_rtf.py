"""Compressed RTF of Outlook messages ([MS-OXRTFCP])."""

import struct

from soldiom_ray.collect.text import SkippedError

_COMPRESSED, _STORED = b"LZFu", b"MELA"
_HEADER_BYTES = 16
_WINDOW = 4096
_KNOWN = (
    rb"{\rtf1\ansi\mac\deff0\deftab720{\fonttbl;}{\f0\fnil \froman \fswiss \fmodern \fscript \fdecor "
    b"MS Sans SerifSymbolArialTimes New RomanCourier{\\colortbl\\red0\\green0\\blue0\r\n"
    rb"\par \pard\plain\f0\fs20\b\i\u\tab\tx"
)
"""What the window holds before the first byte."""


def decompress(data: bytes) -> bytes:
    """The RTF, at most nine times as long as the data. Raises SkippedError: damaged."""
    if len(data) < _HEADER_BYTES or data[8:12] not in (_COMPRESSED, _STORED):
        raise SkippedError("damaged", "a message whose compressed RTF has no header")
    size = struct.unpack_from("<I", data, 4)[0]
    if data[8:12] == _STORED:
        return data[_HEADER_BYTES : _HEADER_BYTES + size]
    text = bytearray(_KNOWN)
    at = _HEADER_BYTES
    while at < len(data):
        flags = data[at]
        at += 1
        for bit in range(8):
            if not flags >> bit & 1:
                text += data[at : at + 1]
                at += 1
                continue
            if at + 2 > len(data):
                break
            token = data[at] << 8 | data[at + 1]
            at += 2
            place, length = token >> 4, (token & 15) + 2
            distance = (len(text) - place) % _WINDOW
            if not distance:
                return bytes(text[len(_KNOWN) :])
            start = len(text) - distance
            if start < 0:
                raise SkippedError("damaged", "a message whose compressed RTF refers to nothing")
            for offset in range(length):
                text.append(text[start + offset])
    return bytes(text[len(_KNOWN) :])
