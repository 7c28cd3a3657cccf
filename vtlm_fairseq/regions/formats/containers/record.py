"""A record of a container, and arrays of bytes that somebody else wrote."""

import io
import math
import os
import pickle
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from vtlm_fairseq.errors import VTLMError, reason
from vtlm_fairseq.regions.formats.input_image import check_no_pipe
from vtlm_fairseq.regions.formats.pickles import unpickle_plain

MAX_BYTES = 1 << 30
"""Of a field of one image, unpacked: more is damage, or meant to fill the memory."""


class Record(NamedTuple):
    """One image of a container.

    Attributes:
        image_id: its id.
        where: file, and place in it, for messages.
        load: reads its fields; to be called before the next record is asked for.
        files: that are the image's own; none where all are in one.
    """

    image_id: str
    where: str
    load: Callable[[], Mapping[str, Any]]
    files: tuple[Path, ...] = ()


def faulty(error: VTLMError) -> Record:
    """A record that cannot be read, of a container whose next one may be."""

    def load() -> Mapping[str, Any]:
        raise error

    return Record("", "", load)


def library(name: str) -> Any:
    """A library of the extra ``formats``.

    Raises:
        VTLMError: it is not installed.
    """
    try:
        return import_module(name)
    except ImportError:
        package = name.split(".")[0]
        raise VTLMError(
            f"{package} is not installed, which reads these files; pip install 'vtlm-fairseq[formats]'"
        ) from None


@contextmanager
def open_parquet(path: str) -> Iterator[Any]:
    """A parquet file; what pyarrow raises for a damaged one while it is read ends in a line.

    Raises:
        VTLMError: pyarrow is not installed, or it cannot be read.
    """
    parquet, arrow = library("pyarrow.parquet"), library("pyarrow")
    try:
        yield parquet.ParquetFile(path, memory_map=False, pre_buffer=False)
    except (VTLMError, MemoryError):
        raise
    except (arrow.ArrowException, OSError, ValueError, KeyError, TypeError, OverflowError, RuntimeError) as error:
        raise VTLMError(f"{path}: not a readable parquet file ({reason(error)})") from None


def read_bytes(path: Path, *, most: int = MAX_BYTES) -> bytes:
    """The content of a file.

    Raises:
        VTLMError: it cannot be read, or is larger than ``most``.
    """
    check_no_pipe(path)
    try:
        size = os.path.getsize(path)
        if size > most:
            raise VTLMError(f"{path}: {size:,} bytes for one image, at most {most:,} are read")
        return path.read_bytes()
    except OSError as error:
        raise VTLMError(f"{path}: cannot be read ({reason(error)})") from None


def npy_array(data: bytes, where: str) -> Any:
    """The array of a .npy in memory; of an array of objects, its plain content (see `unpickle_plain`).

    Raises:
        VTLMError: it is no .npy, holds other things, or fewer values than it declares.
    """
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = header(file)
    except KeyError:
        raise VTLMError(f"{where}: a .npy of a version for structured arrays; save plain numbers") from None
    except Exception as error:  # numpy raises a dozen types for damaged files
        raise VTLMError(f"{where}: not a .npy file ({reason(error)})") from None
    if dtype.hasobject:
        return unpickle_plain(file, where)
    if dtype.kind not in "biufSU" or not dtype.itemsize:
        raise VTLMError(f"{where}: a .npy of {dtype.kind!r}, not of numbers or text")
    count = math.prod(shape)
    if any(type(n) is not int or n < 0 for n in shape) or count * dtype.itemsize > len(data) - file.tell():
        raise VTLMError(f"{where}: declares {list(shape)} values, more than it holds; write or copy it again")
    array = np.frombuffer(data, dtype, count, file.tell()) if count else np.empty(0, dtype)
    try:
        return array.reshape(shape, order="F" if fortran else "C")
    except ValueError:
        raise VTLMError(f"{where}: a shape that cannot be; write or copy it again") from None


def npz_arrays(
    file: str | BinaryIO, where: str, names: Iterable[str] | None, *, most: int = MAX_BYTES
) -> dict[str, Any]:
    """Some arrays of a .npz.

    Args:
        file: its path, or the file itself.
        where: for messages.
        names: of the arrays, as far as it has them; None: all.
        most: bytes of an array, unpacked.

    Raises:
        VTLMError: it is no .npz, or an array is as `npy_array` refuses it.
    """
    found = {}
    if isinstance(file, str):
        check_no_pipe(file)
    try:
        with zipfile.ZipFile(file) as archive:
            members = {name.removesuffix(".npy"): name for name in archive.namelist()}
            for name in members if names is None else names:
                if name in members:
                    if archive.getinfo(members[name]).file_size > most:
                        raise VTLMError(f"{where}: {name!r} is larger than {most:,} bytes")
                    found[name] = npy_array(archive.read(members[name]), f"{where}, {name}")
            held = ", ".join(list(members)[:20])
    except VTLMError:
        raise
    except OSError as error:
        raise VTLMError(f"{where}: cannot be read ({reason(error)})") from None
    except MemoryError:
        raise
    except Exception as error:  # zipfile and zlib raise a dozen types for damaged files
        raise VTLMError(f"{where}: not a .npz file ({reason(error)})") from None
    if names is not None and not found:
        raise VTLMError(f"{where}: holds none of {', '.join(names)}, but {held or 'nothing'}")
    return found


def msgpack_value(data: bytes | memoryview, where: str) -> Any:
    """What msgpack packed, with arrays as msgpack-numpy writes them.

    Raises:
        VTLMError: damaged, or something else in it.
    """
    msgpack = library("msgpack")

    def hook(content: dict) -> Any:
        if b"nd" not in content:
            return {key.decode("utf-8", "replace") if isinstance(key, bytes) else key: content[key] for key in content}
        dtype, packed = content.get(b"type"), content.get(b"data")
        dtype = dtype.decode("latin1") if isinstance(dtype, bytes) else dtype
        if not isinstance(dtype, str) or dtype[:1] not in "<>|=" or dtype[1:2] not in tuple("fiub"):
            raise ValueError("an array of no plain numbers")
        array = np.frombuffer(packed, np.dtype(dtype))
        return array.reshape(content[b"shape"]) if content[b"nd"] is True else array[0].item()

    try:
        return msgpack.unpackb(data, raw=False, strict_map_key=False, object_hook=hook)
    except MemoryError:
        raise
    except Exception as error:  # msgpack raises a dozen types for damaged data
        raise VTLMError(f"{where}: not msgpack of plain arrays ({reason(error)})") from None


def unpickled(data: bytes | memoryview, where: str) -> Any:
    """A pickle of plain values in memory, read as `unpickle_plain` does."""
    try:
        return unpickle_plain(io.BytesIO(data), where)
    except (OSError, pickle.UnpicklingError) as error:
        raise VTLMError(f"{where}: cannot be read ({reason(error)})") from None


def fields_of(value: Any, where: str) -> Mapping[str, Any]:
    """A record that was read, which must be a dictionary.

    Raises:
        VTLMError: it is none.
    """
    if not isinstance(value, Mapping):
        raise VTLMError(f"{where}: holds a {type(value).__name__}, not a dictionary of arrays")
    return value


def text_id(value: Any, where: str) -> str:
    """An image id that a file holds, as text.

    Raises:
        VTLMError: it is neither text nor a whole number.
    """
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    if isinstance(value, bytes | np.bytes_):
        try:
            return bytes(value).decode("utf-8")
        except UnicodeDecodeError:
            raise VTLMError(f"{where}: image id {bytes(value)[:60]!r} is not UTF-8") from None
    if isinstance(value, str) or (isinstance(value, int | np.integer) and not isinstance(value, bool)):
        return str(value)
    raise VTLMError(f"{where}: an image id is {type(value).__name__}, neither text nor a whole number")
