"""Members of tar files of strangers, one after the other, in little memory and with an end."""

import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from vtlm_fairseq.errors import VTLMError, reason

MAX_HEADER_BYTES = 1 << 20
"""Of what a member says of itself beside its first block, such as a long name: tarfile reads it whole."""

_EXTENDED = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME,
             tarfile.GNUTYPE_LONGLINK)  # fmt: skip
_FAULTS = (
    OSError, EOFError, ValueError, LookupError, TypeError, OverflowError, MemoryError, RecursionError, tarfile.TarError,
    zlib.error, lzma.LZMAError,
)  # fmt: skip


class _Header(tarfile.TarInfo):
    """A header whose sizes are looked at before tarfile reads by them."""

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        """As TarInfo's.

        Raises:
            tarfile.ReadError: a size below 0, or an extended header that is too large.
        """
        member = super().frombuf(buf, encoding, errors)
        if member.size < 0 or (member.type in _EXTENDED and member.size > MAX_HEADER_BYTES):
            raise tarfile.ReadError(f"a header that declares {member.size:,} bytes")
        return member


def tar_members(
    path: str | Path, *, mode: str, hint: str, most: int | None = None
) -> Iterator[tuple[tarfile.TarInfo, Callable[[], bytes]]]:
    """Each file of an archive in turn, and what reads it; links, devices and sparse files are passed over.

    Args:
        path: of the archive.
        mode: of `tarfile.open`: ``r:`` reads none that is compressed.
        hint: what mends a damaged one, for the message.
        most: more members than so many are refused; None: a file that is not compressed has room for few.

    Raises:
        VTLMError: not a tar file, a damaged one, or one that would not come to an end; from the reader too.
    """
    with _damage(path, hint), tarfile.open(path, mode, tarinfo=_Header) as archive:
        count, position = 0, -1
        while (member := archive.next()) is not None:
            archive.members = []  # it would keep all of them
            count += 1
            if archive.offset <= position or member.size < 0:
                raise tarfile.ReadError("a member that ends before it begins")
            if most is not None and count > most:
                raise tarfile.ReadError(f"more than {most:,} members")
            position = archive.offset
            if member.isfile() and not member.issparse():
                yield member, partial(_read, archive, member, path, hint)
        if mode == "r:":  # the way back would be long in a compressed one
            archive.fileobj.seek(archive.offset)
            if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise VTLMError(f"{path}: damaged or cut at byte {archive.offset:,}; copy it again")


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo, path: str | Path, hint: str) -> bytes:
    with _damage(path, hint):
        return archive.extractfile(member).read()


@contextmanager
def _damage(path: str | Path, hint: str) -> Iterator[None]:
    """Turn what tarfile and the decompressors raise into one line."""
    try:
        yield
    except VTLMError:
        raise
    except _FAULTS as error:
        raise VTLMError(f"{path}: not an intact tar file ({reason(error)[:200]}); {hint}") from None
