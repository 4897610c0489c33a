"""The number of pixels that the AV1 streams of an AVIF file can make the decoder allocate.

The size in an AVIF file's header is not binding: libavif decodes whatever the stream contains, up to 268 million
pixels, and scales it afterwards. Pillow does not set a lower bound. Layouts: ISO/IEC 14496-12 (boxes), AV1 Bitstream &
Decoding Process Specification, sections 5.3 (OBU header) and 5.5 (sequence header).
"""

from __future__ import annotations

import struct

_SEQUENCE_HEADER = 1
_FRAME_HEADERS = (3, 6)  # alone, and with the frame after it
# Boxes, extents and OBUs; photographs have tens, and more would block the interpreter for long.
_MAX_PARTS = 20_000


def coded_pixels(file: bytes) -> int:
    """Return the most pixels in one stream's frames, counting an image and its transparency as one.

    Raises IndexError, ValueError or struct.error for a file that is broken or not a still image.
    """
    if file[8:12] == b"avis":  # whose tracks have sizes of their own
        raise ValueError("an animated AVIF")
    pixels = [_stream_pixels(item) for item in _items(file)]
    return max(*pixels, sum(pixels) // 2, 0)


def _boxes(data: bytes) -> dict[bytes, bytes]:
    """The bodies of the boxes side by side in `data`, by type; those that matter here may occur only once."""
    found: dict[bytes, bytes] = {}
    position = parts = 0
    while position < len(data):
        size, kind = struct.unpack_from(">I4s", data, position)
        start = position + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, start)
            start += 8
        end = position + size if size else len(data)
        twice = kind in found and kind in (b"meta", b"iloc", b"idat")
        if end < start or twice or parts > _MAX_PARTS:
            raise ValueError("not the boxes of an AVIF file")
        found[kind] = data[start:end]
        position, parts = end, parts + 1
    return found


def _items(file: bytes) -> list[bytes]:
    """Return the data of every item. All are parsed as AV1: other items have no sequence header."""
    meta = _boxes(_boxes(file)[b"meta"][4:])
    iloc, inside = meta[b"iloc"], meta.get(b"idat", b"")
    position = 4

    def take(size: int) -> int:
        nonlocal position
        position += size
        if position > len(iloc):
            raise IndexError
        return int.from_bytes(iloc[position - size : position], "big")

    version, sizes, more_sizes = iloc[0], take(1), take(1)
    wide = 2 if version < 2 else 4
    items, left, parts = [], len(file), 0
    for _ in range(take(wide)):
        take(wide)  # item
        source = (file, inside)[take(2) & 15] if version else file
        take(2)  # data reference
        base = take(more_sizes >> 4)
        item = bytearray()
        for _ in range(take(2)):
            take(more_sizes & 15 if version else 0)  # extent index
            offset, length = base + take(sizes >> 4), take(sizes & 15)
            item += source[offset : offset + length] if length else source[offset:]
            left, parts = left - length, parts + 1
            if left < 0 or parts > _MAX_PARTS:
                raise ValueError("items that share their bytes")
        items.append(bytes(item))
    return items


def _stream_pixels(stream: bytes) -> int:
    """Return the pixels of all frames in the OBUs of one item, including frames that are not shown."""
    pixels = frames = position = parts = 0
    while position < len(stream):
        first = stream[position]
        position += 2 if first & 4 else 1
        size = len(stream)
        if first & 2:
            size = shift = 0
            while shift < 56:
                size |= (stream[position] & 127) << shift
                shift, position = shift + 7, position + 1
                if stream[position - 1] < 128:
                    break
        kind = first >> 3 & 15
        if kind == _SEQUENCE_HEADER:
            pixels = max(pixels, _sequence_pixels(stream[position : position + 128]))
        frames += kind in _FRAME_HEADERS
        position, parts = position + size, parts + 1
        if parts > _MAX_PARTS:
            raise ValueError("too many OBUs")
    return pixels * max(frames, 1)


def _sequence_pixels(payload: bytes) -> int:
    bits, left = int.from_bytes(payload, "big"), 8 * len(payload)

    def take(count: int) -> int:
        nonlocal left
        left -= count
        if left < 0:
            raise IndexError
        return bits >> left & (1 << count) - 1

    take(4)  # profile, still_picture
    reduced = take(1)
    if reduced:
        take(5)  # level
    else:
        if take(1):
            raise ValueError("a stream with timing information")
        display_delay = take(1)
        for _ in range(take(5) + 1):
            take(12)
            if take(5) > 7:
                take(1)  # tier
            if display_delay and take(1):
                take(4)
    width_bits, height_bits = take(4) + 1, take(4) + 1
    if not reduced:
        # Each frame may then have a size of its own, of as many bits, and decoders do not enforce the maximum.
        return 1 << width_bits + height_bits
    return (take(width_bits) + 1) * (take(height_bits) + 1)
