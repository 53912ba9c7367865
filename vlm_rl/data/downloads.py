"""Images on the web, fetched while rows are read if `data.allow_download` says so."""

import requests

from vlm_rl.data.tables import BadRow

MOST_BYTES = 64 * 2**20
"""Of one image."""
_TIMEOUT_S = (10.0, 60.0)  # to connect, and between two packets
_CHUNK = 2**16


def downloaded(address: str) -> bytes:
    """Return the image at `address`. Raises BadRow."""
    content = bytearray()
    try:
        with requests.get(address, stream=True, timeout=_TIMEOUT_S) as reply:
            reply.raise_for_status()
            for chunk in reply.iter_content(_CHUNK):
                content += chunk
                if len(content) > MOST_BYTES:
                    raise BadRow("no image file", f"image {address!r} is above {MOST_BYTES} bytes")
    except (requests.RequestException, ValueError) as error:
        if isinstance(error, BadRow):
            raise
        raise BadRow("no image file", f"image {address!r}: {error}") from error
    return bytes(content)


def not_allowed(address: str) -> BadRow:
    """Return the error of a row whose image a run may not fetch."""
    return BadRow(
        "no image file",
        f"image {address!r} is on the web; data.allow_download=true fetches it, or download it and "
        "name its path",
    )
