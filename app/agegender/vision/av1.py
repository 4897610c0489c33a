"""How large a picture an AV1 stream may make its decoder build, from the stream's sequence headers.

The size that an AVIF file declares in its boxes binds nobody: decoders allocate by the stream inside, then
scale. Bit layouts: AV1 Bitstream & Decoding Process Specification, sections 5.3 (OBU header) and 5.5
(sequence header).
"""

from __future__ import annotations

_SEQUENCE_HEADER = 1
_FRAME_HEADERS = (3, 6)  # alone, and with the frame after it
# Parts of a stream; still pictures have a few, and walking more would hold the interpreter.
_MAX_OBUS = 20_000


def coded_pixels(stream: bytes) -> int:
    """Pixels of all frames that `stream`, the OBUs of one AVIF item, may hold: a still picture has one.

    Raises ValueError where the stream has no sequence header, is cut short or has what no still picture has.
    """
    pixels = frames = 0
    position = 0
    for _ in range(_MAX_OBUS):
        if position >= len(stream):
            break
        first = stream[position]
        has_extension, has_size = first & 4, first & 2
        position += 2 if has_extension else 1
        if has_size:
            size, position = _leb128(stream, position)
        else:
            size = len(stream) - position
        if size > len(stream) - position:
            raise ValueError("the AV1 stream is cut short")
        kind = first >> 3 & 15
        # Frames that are not shown stay as references for others.
        frames += kind in _FRAME_HEADERS
        if kind == _SEQUENCE_HEADER:
            pixels = max(pixels, _sequence_pixels(stream[position : position + size]))
        position += size
    else:
        raise ValueError("too many OBUs")
    if not pixels:
        raise ValueError("the AV1 stream has no sequence header")
    return pixels * max(frames, 1)


def _leb128(stream: bytes, position: int) -> tuple[int, int]:
    value = 0
    for index, byte in enumerate(stream[position : position + 8]):
        value |= (byte & 127) << 7 * index
        if byte < 128:
            return value, position + index + 1
    raise ValueError("an AV1 length is cut short")


def _sequence_pixels(payload: bytes) -> int:
    bits = _Bits(payload)
    bits.take(3)  # profile
    bits.take(1)  # still_picture
    reduced = bits.take(1)
    if reduced:
        bits.take(5)  # level
    else:
        if bits.take(1):
            raise ValueError("the AV1 stream has timing information")
        display_delay = bits.take(1)
        for _ in range(bits.take(5) + 1):
            bits.take(12)
            if bits.take(5) > 7:
                bits.take(1)  # tier
            if display_delay and bits.take(1):
                bits.take(4)
    width_bits, height_bits = bits.take(4) + 1, bits.take(4) + 1
    if not reduced:
        # Each frame may then state a size of its own, of as many bits, and no decoder holds it to the most.
        return 1 << width_bits + height_bits
    return (bits.take(width_bits) + 1) * (bits.take(height_bits) + 1)


class _Bits:
    """Reads big-endian bit fields."""

    def __init__(self, data: bytes) -> None:
        # A sequence header ends within its first hundred bytes, whatever the OBU says of its size.
        self._value = int.from_bytes(data[:128], "big")
        self._left = 8 * len(data[:128])

    def take(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise ValueError("the AV1 sequence header is cut short")
        return self._value >> self._left & (1 << count) - 1
