"""Where on the sky a survey was looked at, as a multi-order coverage map (IVOA's MOC 2.0)."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

# Cells of some 3.4 arc minutes: a cutout's neighbourhood, and small files.
ORDER = 10


def coverage_of(
    ra_N: NDArray[np.floating], dec_N: NDArray[np.floating], order: int = ORDER
) -> bytes:
    """The cells that objects lie in, as a FITS file.

    Parameters
    ----------
    ra_N, dec_N : ndarray, shape (N,)
        Positions in degrees, ICRS; what is not finite is left out.
    order : int
        Of the HEALPix cells.

    Returns
    -------
    bytes
        A MOC in FITS, as the Virtual Observatory's programs read it.
    """
    from astropy import units
    from mocpy import MOC

    good = np.isfinite(ra_N) & np.isfinite(dec_N)
    moc = MOC.from_lonlat(ra_N[good] * units.deg, dec_N[good] * units.deg, max_norder=order)
    kept = io.BytesIO()
    moc.serialize("fits").writeto(kept)
    return kept.getvalue()
