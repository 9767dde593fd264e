"""The plainest FITS files, read without ceremony.

Most cutouts are one image in the first unit of a file, stored as it is. Parsing their header is
most of what astropy does for them, and what a graphics card waits for. Anything else about a file
(the image in a second unit, scaling, blanks, compression, an odd header, data that are short) is
left to astropy.
"""

from __future__ import annotations

import math
import re

import numpy as np
from numpy.typing import NDArray

BLOCK = 2880
CARD = 80
# Two in the sky, bands, and what has a length of one.
MOST_AXES = 5
TYPES = {8: ">u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}
# What changes the meaning of the numbers.
SPECIAL = re.compile(rb"(BSCALE|BZERO|BLANK|GROUPS|ZIMAGE|ZCMPTYPE|INHERIT|CONTINUE)\b")
# What axes in the sky are called: FITS standard 4.0, table 23.
SKY_AXES = ("RA", "DEC", "GLON", "GLAT", "ELON", "ELAT", "HLON", "HLAT", "SLON", "SLAT")
WHOLE = re.compile(rb"= +(-?\d+) *(/|$)")


def read_plain(data: bytes) -> NDArray[np.float32] | None:
    """The image of a plain FITS file.

    Parameters
    ----------
    data : bytes
        The file's bytes, unpacked.

    Returns
    -------
    ndarray of float32 or None
        Of shape NAXISn, …, NAXIS1; None if the file is not plain, or its bands come last.

    References
    ----------
    FITS standard 4.0, sections 3 and 4: Pence et al. 2010, A&A 524, A42.
    """
    cards: dict[bytes, bytes] = {}
    place = 0
    while True:
        card = data[place : place + CARD]
        place += CARD
        if card.rstrip() == b"END":
            break
        if len(card) < CARD or SPECIAL.match(card):
            return None
        cards.setdefault(card[:8].rstrip(), card[8:])
    numbers = {}
    lengths = [b"NAXIS%d" % number for number in range(1, MOST_AXES + 1)]
    for name in (b"BITPIX", b"NAXIS", *lengths):
        if found := WHOLE.match(cards.get(name, b"").rstrip()):
            numbers[name] = int(found.group(1))
    axes = numbers.get(b"NAXIS", 0)
    names = [b"NAXIS%d" % number for number in range(axes, 0, -1)]
    kind = TYPES.get(numbers.get(b"BITPIX", 0))
    if not 2 <= axes <= MOST_AXES or kind is None or any(name not in numbers for name in names):
        return None
    first = cards.get(b"CTYPE1", b"=")[1:].strip(b" '").decode("ascii", "replace").upper()
    if axes > 2 and first and not first.startswith(SKY_AXES):
        return None
    shape = [numbers[name] for name in names]
    count = math.prod(shape)
    start = -(-place // BLOCK) * BLOCK
    if min(shape) < 1 or len(data) < start + count * np.dtype(kind).itemsize:
        return None
    return np.frombuffer(data, kind, count, start).reshape(shape).astype(np.float32)
