"""What ``--regions`` names: the store files of a split, or of all. Every command asks here."""

import os
from collections.abc import Sequence

from vtlm_fairseq.errors import VTLMError, reason
from vtlm_fairseq.files.names import check_name
from vtlm_fairseq.regions.guard import check_openable


def store_files(
    regions: str, split: str | None = None, parts: Sequence[str] = (), *, option: str = "--regions "
) -> list[str]:
    """Files that can be opened, sorted by name.

    A child process opens them first: of some damaged ones HDF5 never comes back.

    Args:
        regions: a file, which serves every split, or a folder.
        split: of a folder, ``{split}.h5`` or its shards ``{split}.*.h5``; None: all its ``.h5`` files.
        parts: of a folder, the files of ``{split}1``, ... too, where there are any.
        option: how messages begin, before ``regions``.

    Raises:
        VTLMError: nothing there (names the splits that are), one file beside shards of the same split, or HDF5 crashes
            or does not come back.
    """
    where = f"{option}{regions}"
    if os.path.isfile(regions):
        files = [regions]
    elif not os.path.isdir(regions):
        raise VTLMError(
            f"{where}: no such file or folder; name a region store, or a folder of {{split}}.h5 or {{split}}.*.h5 files"
        )
    elif split is None:
        files = [os.path.join(regions, name) for name in _stores(regions, where)]
        if not files:
            raise VTLMError(f"{where}: no .h5 file in that folder; name a region store, or a folder of stores")
    else:
        files = _of_split(regions, split, where)
        if not files:
            splits = ", ".join(sorted({name.split(".")[0] for name in _stores(regions, where)})) or "none"
            raise VTLMError(
                f"{where}: neither {split}.h5 nor {split}.*.h5 is there (splits there: {splits}); "
                "make it with vtlm-regions convert, or name another file or folder"
            )
        files += [file for part in parts for file in _of_split(regions, part, where)]
    files = list(dict.fromkeys(files))
    check_openable(files)
    return files


def holds_split(regions: str, split: str) -> bool:
    """Whether a file, or a folder with files of a split, is there."""
    return os.path.isfile(regions) or bool(_of_split(regions, split, regions))


def _of_split(regions: str, split: str, where: str) -> list[str]:
    check_name(split, f"{where}: split", nested=True)
    folder, stem = os.path.split(os.path.join(regions, split))
    names = [name for name in _stores(folder, where) if name.startswith(f"{stem}.")]
    if f"{stem}.h5" in names and len(names) > 1:
        raise VTLMError(f"{where}: holds both {split}.h5 and shards {split}.*.h5; remove one of them, or name one file")
    return [os.path.join(folder, name) for name in names]


def _stores(folder: str, where: str) -> list[str]:
    """Names of the ``.h5`` files of a folder, sorted; those that begin with a dot are hidden, folders are no files."""
    try:
        names = [name for name in os.listdir(folder) if name.endswith(".h5") and not name.startswith(".")]
        return sorted(name for name in names if not os.path.isdir(os.path.join(folder, name)))
    except (FileNotFoundError, NotADirectoryError):  # of a split that has a folder of its own
        return []
    except OSError as error:
        raise VTLMError(f"{where}: cannot be read ({reason(error)})") from None
