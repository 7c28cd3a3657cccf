"""What the names of files in a data folder say: languages and splits."""

import os
import re

from fairseq import utils

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.text.pipeline import TextPipeline

NO_LANGUAGE = "None"
"""Target language of captions of one language, in the names that ``fairseq-preprocess --only-source`` gives them."""

PAIR_OPTIONS = "; see -s and -t (in a recipe task.source_lang and task.target_lang)"

CHECKPOINT_PAIR = "; the pair is the checkpoint's: name a data folder of it (for fairseq-validate, see -s and -t)"


def language_pairs(folder: str) -> list[tuple[str, str]]:
    """Language pairs of binarised files, ``{split}.{source}-{target}.{language}.*``, in order.

    Languages may hold hyphens (``pt-BR``): where a pair is parted is seen from the languages of its files. fairseq's
    own function knows none of them.
    """
    languages: dict[str, set[str]] = {}
    for name in os.listdir(folder):
        parts = name.split(".")
        if len(parts) >= 3 and parts[0] and "-" in parts[1]:
            languages.setdefault(parts[1], set()).add(parts[2])
    pairs = set()
    for pair, names in languages.items():
        both = [(source, target) for source in names for target in names if f"{source}-{target}" == pair]
        for name in sorted(names) if not both else ():  # files of one side only
            if pair.startswith(f"{name}-"):
                both.append((name, pair.removeprefix(f"{name}-")))
            elif pair.endswith(f"-{name}"):
                both.append((pair.removesuffix(f"-{name}"), name))
        pairs.update(both[:1])
    return sorted(pairs)


def pair_name(pair: tuple[str, str]) -> str:
    """A pair in messages: ``en-de``, or the one language of captions."""
    return pair[0] if pair[1] == NO_LANGUAGE else "-".join(pair)


def check_valid_subsets(cfg) -> None:
    """Refuse a folder with ``valid1``, ... that fairseq would end with a stack for, also where it is named.

    Args:
        cfg: options of a task that trains.

    Raises:
        VTLMError: names the options that say what is meant.
    """
    if cfg.combine_valid_subsets or cfg.ignore_unused_valid_subsets or cfg.disable_validation:
        return
    folder, chosen = utils.split_paths(cfg.data)[0], cfg.valid_subset.split(",")
    found = {match[1] for match in (re.match(r"(valid[0-9]+)\.", name) for name in os.listdir(folder)) if match}
    if not found:
        return
    more = [name for name in sorted(found) if name not in chosen]
    names = ",".join([*chosen, *more])
    raise VTLMError(
        f"{folder} holds {', '.join(sorted(found))}; add --combine-valid-subsets to validate on all as one, or "
        f"--ignore-unused-valid-subsets, with --valid-subset {names} to validate on each"
    )


def held_pairs(folder: str) -> list[tuple[str, str]]:
    """Language pairs of a data or checkpoint folder, from its file names, or ``text.json`` where these name none."""
    pairs = language_pairs(folder)
    if not pairs and os.path.exists(os.path.join(folder, "text.json")):
        pipeline = TextPipeline.load(folder)
        pairs = [(pipeline.source_lang, pipeline.target_lang)]
    return pairs


def check_held(folder: str, source: str, target: str, hint: str) -> None:
    """Refuse a pair that a folder does not hold, in either direction; a folder that names none is left alone.

    Raises:
        VTLMError: names what it holds and gives the hint.
    """
    pairs = held_pairs(folder)
    if pairs and not {(source, target), (target, source)} & set(pairs):
        found = " and ".join(map(pair_name, pairs))
        raise VTLMError(f"{folder} holds {found}, not {source}-{target}{hint}")


def language_pair(folder: str, source: str | None = None, target: str | None = None) -> tuple[str, str]:
    """Source and target language of a data or checkpoint folder, from its file names or ``text.json``.

    Args:
        folder: the folder.
        source, target: what is known of the pair: files of a pair serve both directions.

    Raises:
        VTLMError: neither says, none fits what is known, or files of several pairs lie there.
    """
    pairs, known = language_pairs(folder), source or target
    if (not pairs or not (known or len(pairs) == 1)) and os.path.exists(os.path.join(folder, "text.json")):
        pipeline = TextPipeline.load(folder)
        pairs = [(pipeline.source_lang, pipeline.target_lang)]
    found = " and ".join(map(pair_name, pairs)) or "no binarised data and no text.json"
    if known:
        others = {other for pair in pairs for one, other in (pair, pair[::-1]) if one == known}
        if len(others) != 1:
            raise VTLMError(
                f"{folder}: {'-s' if source else '-t'} {known} alone does not tell the pair ({found}); give -s and -t"
            )
        return (source, *others) if source else (*others, target)
    if len(pairs) != 1:
        raise VTLMError(f"{folder}: {found} name the language pair; give -s and -t")
    return pairs[0]
