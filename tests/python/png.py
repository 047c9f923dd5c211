"""Makes a browser's picture small: Chromium writes every colour in three bytes, and a page has few colours."""

import struct
import zlib
from collections import Counter

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def smaller(picture):
    """The same picture with its 256 most frequent colours; each of the others, at the edges of letters, becomes the nearest of them."""
    width, height, pixels = colours(picture)
    palette = [colour for colour, _ in Counter(pixels).most_common(256)]
    index = {colour: at for at, colour in enumerate(palette)}
    for colour in set(pixels) - index.keys():
        index[colour] = min(range(len(palette)), key=lambda at: sum((a - b) ** 2 for a, b in zip(colour, palette[at])))
    rows = (pixels[at : at + width] for at in range(0, len(pixels), width))
    data = b"".join(b"\0" + bytes(index[pixel] for pixel in row) for row in rows)
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"PLTE", b"".join(palette)), (b"IDAT", zlib.compress(data, 9)), (b"IEND", b"")]
    return SIGNATURE + b"".join(chunk(kind, content) for kind, content in chunks)


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def colours(picture):
    """Width, height and all pixels of a picture with three bytes for each, which is what Chromium makes."""
    assert picture.startswith(SIGNATURE)
    at, data = len(SIGNATURE), b""
    while at < len(picture):
        length, kind = struct.unpack(">I4s", picture[at : at + 8])
        content = picture[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            width, height, *format = struct.unpack(">IIBBBBB", content)
            assert format == [8, 2, 0, 0, 0], format
        data += content if kind == b"IDAT" else b""
        at += 12 + length
    data, line, above, pixels = zlib.decompress(data), 3 * width, bytes(3 * width), []
    for row in range(height):
        start = row * (line + 1)
        above = unfiltered(data[start], bytearray(data[start + 1 : start + 1 + line]), above)
        pixels += [bytes(above[at : at + 3]) for at in range(0, line, 3)]
    return width, height, pixels


def unfiltered(how, row, above):
    """https://www.w3.org/TR/png-3/#9Filters"""
    for at in range(len(row)) if how else ():
        left, up, corner = (row[at - 3], above[at], above[at - 3]) if at > 2 else (0, above[at], 0)
        guess = left + up - corner
        paeth = min((left, up, corner), key=lambda near: abs(guess - near))
        row[at] = (row[at] + (0, left, up, (left + up) // 2, paeth)[how]) % 256
    return row
