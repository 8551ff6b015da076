"""The Mandelbrot set in tiles, on a cluster of processes: arrays go there and back over the network, a picture is made.

Needs numpy. The cluster is described by a few lines of YAML, lives in a temporary folder, and is gone at the end.
"""

import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import cluster

WIDTH, HEIGHT, TILE_HEIGHT = 600, 480, 40
LEFT, RIGHT, TOP, BOTTOM = -2.0, 0.5, 1.0, -1.0
MAX_STEPS = 200

LAB = """
name: mandelbrot
master: {bind: "tcp://127.0.0.1:0"}   # port 0: one that is free
workers: [{slots: 1}, {slots: 1}]
"""


def steps_to_escape(points: NDArray[np.complex128]) -> NDArray[np.uint8]:
    """After how many steps of z = z * z + point each point is out of the circle; `MAX_STEPS` if it never is."""
    z = np.zeros_like(points)
    steps = np.zeros(points.shape, dtype=np.uint8)
    for _ in range(MAX_STEPS):
        inside = z.real**2 + z.imag**2 <= 4.0
        steps += inside
        z = np.where(inside, z * z + points, z)
    return steps


def png(grey: NDArray[np.uint8]) -> bytes:
    """A grey picture in the simplest form that the PNG specification allows."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width = grey.shape
    rows = b"".join(b"\0" + row.tobytes() for row in grey)  # 0: this row is not filtered
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


# Each pixel stands for the point in its middle, so that the picture is as symmetric as the set.
x = LEFT + (np.arange(WIDTH) + 0.5) * (RIGHT - LEFT) / WIDTH
y = TOP - (np.arange(HEIGHT) + 0.5) * (TOP - BOTTOM) / HEIGHT
plane = x[np.newaxis, :] + 1j * y[:, np.newaxis]

with tempfile.TemporaryDirectory() as folder:
    lab = Path(folder, "lab.yaml")
    lab.write_text(LAB, encoding="utf-8")
    with cluster.launch(lab) as c:
        tiles = c.map(steps_to_escape, np.split(plane, HEIGHT // TILE_HEIGHT))
        picture = np.concatenate(list(tiles))

Path("mandelbrot.png").write_bytes(png(255 - picture))
print(f"mandelbrot.png: {WIDTH} x {HEIGHT} points, {HEIGHT // TILE_HEIGHT} tiles")

# The set's area is 1.5066; a grid as coarse as this one, and so few steps, see a little more.
area = np.count_nonzero(picture == MAX_STEPS) * (RIGHT - LEFT) * (TOP - BOTTOM) / picture.size
print(f"area: {area:.3f}")
assert 1.49 < area < 1.56
assert np.array_equal(picture, picture[::-1])  # the lower half is the upper one's mirror image
