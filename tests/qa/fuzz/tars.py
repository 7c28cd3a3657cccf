"""Fuzz the tar files and images that preprocess/extract_regions.py reads: names, links, sizes, bombs."""

import io
import os
import random
import tarfile
import zlib
from pathlib import Path

import numpy as np
from fuzzing import Case
from mutations import damage, word

from vtlm_fairseq.extract.images import list_images
from vtlm_fairseq.regions.image_reading import IMAGE_SUFFIXES, UnreadableImageError, decode_image

NAMES = ("a.jpg", "b/c.png", "../x.jpg", "/etc/passwd.jpg", "a/../../x.jpg", "./a.jpg", ".jpg", "a.b.jpg", "a",
         "x" * 90)  # fmt: skip
KINDS = (tarfile.REGTYPE,) * 6 + (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE,
         tarfile.GNUTYPE_SPARSE)  # fmt: skip


def setup(folder: Path) -> Case:
    """Tar files of small images."""
    pictures = [_picture(kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")] + [_bomb()]
    path = folder / "x.tar"
    before = set(os.listdir(folder.parent))

    def case(rng: random.Random) -> None:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=rng.choice((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))) as tar:
            for _ in range(rng.randint(0, 3)):
                name = rng.choice(NAMES) if rng.random() < 0.8 else word(rng).replace("\0", "") + ".jpg"
                member = tarfile.TarInfo(name)
                member.type, member.linkname = rng.choice(KINDS), rng.choice(("/etc/passwd", "../x", ""))
                data = rng.choice(pictures) if rng.random() < 0.5 else damage(rng, rng.choice(pictures))
                member.size = len(data) if member.isreg() else 0
                try:
                    tar.addfile(member, io.BytesIO(data))
                except (UnicodeError, ValueError):
                    pass
        data = buffer.getvalue()
        for _ in range(rng.choice((0, 0, 0, 1, 2, 3))):
            at = rng.randrange(len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE if rng.random() < 0.3 else 0
            data = data[:at] + _extended(rng) * (1200 if rng.random() < 0.02 else 1) + data[at:]
        data = damage(rng, data) if rng.random() < 0.5 else data
        path.write_bytes(data)
        try:
            files, notes = list_images(str(path), IMAGE_SUFFIXES)
            assert all("\n" not in note for note in notes), "a note of two lines"
            for file in files:
                assert file.tar == str(path) and 0 <= file.offset <= len(data) + 512, "a member outside the tar file"
                try:
                    image = decode_image(file.read(), max_pixels=1_000_000)
                except (UnreadableImageError, OSError):
                    continue
                assert image.mode == "RGB" and np.asarray(image).dtype == np.uint8, "no RGB image"
                assert image.size[0] * image.size[1] <= 1_000_000, "more pixels than allowed"
        finally:
            assert os.listdir(folder) == ["x.tar"] and set(os.listdir(folder.parent)) == before, "files were written"

    return case


def _extended(rng: random.Random) -> bytes:
    """A header that says more of the member behind it: a pax header or a long name, of any size."""
    records = (b"17 size=-2048", b"18 path=../x.jpg", b"22 GNU.sparse.major=1", b"22 GNU.sparse.minor=0", b"99")
    record = rng.choice(records) + rng.choice((b"\n", b"", b"\0"))
    block = bytearray(tarfile.TarInfo("x").tobuf())
    block[156:157] = rng.choice((b"x", b"g", b"X", b"L", b"K", b"S"))
    size = rng.choice((len(record), len(record), 0, 511, 1 << 20, (1 << 33) - 1, -1))
    block[124:136] = b"%011o\0" % size if size >= 0 else b"\xff" * 12
    block[148:156] = b"%06o\0 " % sum(block[:148] + b" " * 8 + block[156:])
    return bytes(block) + record.ljust(tarfile.BLOCKSIZE, b"\0")


def _picture(kind: str) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.arange(300, dtype=np.uint8).reshape(10, 10, 3)).save(buffer, kind)
    return buffer.getvalue()


def _bomb() -> bytes:
    """A PNG of few bytes that declares 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = (60_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    chunks = {b"IHDR": header, b"IDAT": zlib.compress(bytes(10_000)), b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in chunks.items())
