"""Translate captions with a text-only model: German for Conceptual Captions, say. One line out for each in.

The model is an NMT of this package, in a folder with `text.json` as training leaves it, or one of fairseq's. Then the
folder holds checkpoints, `dict.{lang}.txt`, and the BPE codes (`bpecodes`, or a sentencepiece
model); text is tokenised and detokenised with Moses' rules through fairseq (`--tokenizer space`: as it is). The
command can be killed and started again: it goes on behind the last whole block.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING

from vtlm_fairseq import register
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.files import cannot_be_written, check_writable, is_stream, locked, whole_file, write_text
from vtlm_fairseq.files.json_objects import parse_object
from vtlm_fairseq.files.lines import stream_lines
from vtlm_fairseq.files.names import check_language
from vtlm_fairseq.terminal import progress_bar, say
from vtlm_fairseq.text.pipeline import FILE_NAME as TEXT_FILE
from vtlm_fairseq.text.pipeline import load_bpe

if TYPE_CHECKING:
    from vtlm_fairseq.corpora.own_translator import OwnTranslator

BPE_FILES = ("bpecodes", "code", "bpe.codes", "bpe.model", "sentencepiece.bpe.model")
"""Names under which a model folder may hold its BPE model."""


class TextTranslator:
    """A stock fairseq translation model with its dictionaries, BPE and tokeniser.

    Attributes:
        cut: sentences that were too long for the model and lost their end.

    Raises:
        VTLMError: a file is missing or unreadable.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        register()
        from fairseq import utils
        from fairseq.data import encoders
        from omegaconf import OmegaConf

        from vtlm_fairseq.checkpoint_guard import check_stock
        from vtlm_fairseq.inference import best_hypotheses
        from vtlm_fairseq.loading import load_models

        folder = arguments.model
        paths = [str(folder / name) for name in arguments.checkpoint.split(":")]

        def check(state: dict, path: str) -> None:
            check_stock(state, path)  # its faults before those of the folder
            for lang in (arguments.source_lang, arguments.target_lang):
                check_language(lang, f"--model {folder}")
                if not (folder / f"dict.{lang}.txt").is_file():
                    raise VTLMError(f"{folder / f'dict.{lang}.txt'}: no such file; see --model, -s and -t")

        overrides = {"data": str(folder), "source_lang": arguments.source_lang, "target_lang": arguments.target_lang}
        loaded = load_models(paths, overrides, check=check, cpu=arguments.cpu)
        self.models, self.task, self.cuda = loaded.models, loaded.task, loaded.cuda
        self._generator = self.task.build_generator(
            self.models, argparse.Namespace(beam=arguments.beam, max_len_a=0, max_len_b=200)
        )
        self._to_device, self._best = utils.move_to_cuda, best_hypotheses
        self.cut = 0
        self._max_tokens = arguments.max_tokens
        self._limit = min(loaded.max_positions[0], self._max_tokens)
        self._kind, self._segment = self._load_bpe(folder, arguments.bpe_model)
        self._tokenizer = None
        if arguments.tokenizer == "moses":
            langs = {"source_lang": arguments.source_lang, "target_lang": arguments.target_lang}
            config = {"_name": "moses", **langs, "moses_no_dash_splits": False, "moses_no_escape": False}
            self._tokenizer = encoders.build_tokenizer(OmegaConf.create(config))

    @staticmethod
    def _load_bpe(folder: Path, given: Path | None):
        found = given or next((folder / name for name in BPE_FILES if (folder / name).is_file()), None)
        return ("none", str) if found is None else load_bpe(found)

    def translate(self, sentences: list[str]) -> list[str]:
        """Translations in order; an empty sentence gives an empty one, an over-long one is cut."""
        dictionary = self.task.source_dictionary
        tokens = []
        for sentence in sentences:
            words = " ".join(sentence.split())
            words = self._tokenizer.encode(words) if self._tokenizer is not None and words else words
            ids = dictionary.encode_line(self._segment(words), add_if_not_exist=False, append_eos=True).long()
            if len(ids) > self._limit:
                self.cut += 1
                ids[self._limit - 1] = ids[-1]
                ids = ids[: self._limit]
            tokens.append(ids)
        translations = [""] * len(sentences)
        kept = [i for i, ids in enumerate(tokens) if len(ids) > 1]
        if not kept:
            return translations
        dataset = self.task.build_dataset_for_inference([tokens[i] for i in kept], [len(tokens[i]) for i in kept])
        batches = self.task.get_batch_iterator(
            dataset, max_tokens=self._max_tokens, required_batch_size_multiple=1, disable_iterator_cache=True
        )
        samples = batches.next_epoch_itr(shuffle=False)
        samples = map(self._to_device, samples) if self.cuda else samples
        for i, found in self._best(self.task, self.models, self._generator, samples):
            translations[kept[i]] = self._text(found)
        return translations

    def _text(self, tokens) -> str:
        words = self.task.target_dictionary.string(tokens, self._kind)
        text = words if self._tokenizer is None else self._tokenizer.decode(words)
        return " ".join(text.split())


def load_translator(arguments: argparse.Namespace) -> TextTranslator | OwnTranslator:
    """The model that the options name: this package's, whose folder holds ``text.json``, or fairseq's.

    Raises:
        VTLMError: as the two.
    """
    if (arguments.model / TEXT_FILE).is_file():
        from vtlm_fairseq.checkpoint_guard import names
        from vtlm_fairseq.checkpoints import load_checkpoint

        state = load_checkpoint(str(arguments.model / arguments.checkpoint.split(":")[0]), mmap=True)
        if "multimodal_translation" in names("task", (state.get("cfg") or {}).get("task")):
            from vtlm_fairseq.corpora.own_translator import OwnTranslator

            return _in_half(OwnTranslator(arguments), arguments)
    return _in_half(TextTranslator(arguments), arguments)


def _in_half(translator, arguments: argparse.Namespace):
    """The translator, its models in float16 where ``--fp16`` asks for it.

    Raises:
        VTLMError: they are on the CPU.
    """
    if arguments.fp16:
        if not translator.cuda:
            raise VTLMError("--fp16 translates on a GPU only, and none is used here; leave it out")
        for model in translator.models:
            model.half()
    return translator


class BlockWriter:
    """Lines written a block at a time to `PATH.partial`, which becomes `path` at the end; a killed run is continued.

    Args:
        path: the file to make.
        block: lines of a block.
        settings: what decides on the lines; a run with others is not continued.

    Raises:
        VTLMError: `path` exists, or what is there is another's, or was begun with other settings.
    """

    def __init__(self, path: Path, *, block: int, settings: dict) -> None:
        path = Path(os.path.realpath(path)) if path.is_symlink() else path
        self._path, self._block = path, block
        self._partial = path.with_name(path.name + ".partial")
        self._settings = path.with_name(path.name + ".partial.json")
        refuse_existing(path)
        settings = {**settings, "block": block}
        self.done = 0
        check_writable(self._partial)
        try:
            before = self._begun()
            if before is not None and self._partial.exists():
                differ = sorted(key for key in settings.keys() | before.keys() if settings.get(key) != before.get(key))
                if differ:
                    raise VTLMError(
                        f"{self._partial}: begun with another {', '.join(differ)}; give the same options to go on, or "
                        "remove it to start anew"
                    )
                self.done = self._cut()
            else:
                write_text(self._settings, json.dumps(settings, indent=1) + "\n")
                self._partial.write_bytes(b"")
        except OSError as error:
            raise cannot_be_written(str(self._partial), error) from None

    def _begun(self) -> dict | None:
        """The settings of an earlier run, None if there was none."""
        if self._settings.exists():
            return parse_object(self._settings.read_bytes(), str(self._settings), hint="remove it to start anew")
        if self._partial.exists():
            raise VTLMError(f"{self._partial}: was not begun by this command; remove it or choose another --out")
        return None

    def _cut(self) -> int:
        """Cut off what follows the last whole block; returns the lines that stay."""
        ends, position = [], 0
        with open(self._partial, "rb+") as file:
            for number, line in enumerate(file, start=1):
                position += len(line)
                if line.endswith(b"\n") and number % self._block == 0:
                    ends.append(position)
            file.truncate(ends[-1] if ends else 0)
        return len(ends) * self._block

    def write(self, lines: list[str]) -> None:
        """Append a block; it is on the disk when this returns."""
        with open(self._partial, "ab") as file:
            file.write("".join(f"{line}\n" for line in lines).encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())

    def finish(self) -> None:
        """All lines are there: give the file its name."""
        self._partial.rename(self._path)
        self._settings.unlink()


def refuse_existing(path: Path) -> None:
    """Nothing that is there is replaced.

    Raises:
        VTLMError: it exists.
    """
    if path.exists():
        raise VTLMError(f"{path}: exists already; remove it or choose another --out")


class StreamWriter:
    """Lines written to a device or a pipe, always from the first."""

    done = 0

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def write(self, lines: list[str]) -> None:
        """Write a block."""
        self._file.writelines(f"{line}\n" for line in lines)
        self._file.flush()

    def finish(self) -> None:
        """Nothing is left to do."""


def read_sentences(arguments: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Each line of the input, and the sentence in it.

    Raises:
        VTLMError: a line without that column (named).
    """
    for number, line in enumerate(stream_lines(arguments.input), start=1):
        if arguments.column is None:
            yield line, line
            continue
        fields = line.split("\t")
        if not 1 <= arguments.column <= len(fields):
            raise VTLMError(
                f"{arguments.input} line {number}: {len(fields)} columns between tabs, no column {arguments.column}; "
                "see --column"
            )
        yield line, fields[arguments.column - 1]


def run(arguments: argparse.Namespace) -> None:
    """Translate the file that the options of ``vtlm-prepare translate`` name.

    Raises:
        VTLMError: a fault of input or options.
    """
    out = arguments.out
    if not is_stream(out):
        refuse_existing(out)
        check_writable(out)
        with locked(out):
            translate_file(arguments, lambda settings: BlockWriter(out, block=arguments.block, settings=settings))
        return
    with whole_file(out) as file:
        translate_file(arguments, lambda settings: StreamWriter(file))


def translate_file(arguments: argparse.Namespace, begin: Callable[[dict], BlockWriter | StreamWriter]) -> None:
    """Translate the file that the options name, block by block; `begin` gets the settings and gives the writer."""
    total = sum(1 for _ in read_sentences(arguments))
    settings = {"lines": total, "input": os.path.basename(arguments.input), "model": str(arguments.model.resolve())}
    for name in ("checkpoint", "source_lang", "target_lang", "tokenizer", "column", "append", "beam", "max_tokens"):
        settings[name] = getattr(arguments, name)
    number, count = arguments.shard
    first, last = total * number // count, total * (number + 1) // count
    settings |= {"shard": f"{number}/{count}"} if count > 1 else {}
    settings |= {"fp16": True} if arguments.fp16 else {}
    total = last - first
    translator = load_translator(arguments)
    writer = begin(settings)
    lines = islice(read_sentences(arguments), first + writer.done, last)
    with progress_bar(total=total, initial=writer.done, unit=" lines", delay=0) as bar:
        while block := list(islice(lines, arguments.block)):
            translations = translator.translate([sentence for _, sentence in block])
            if arguments.append:
                translations = [f"{line}\t{text}" for (line, _), text in zip(block, translations, strict=True)]
            writer.write(translations)
            bar.update(len(block))
    writer.finish()
    cut = f", {translator.cut:,} sentences of this run were too long and lost their end" if translator.cut else ""
    say(f"{arguments.out}: {total:,} lines{cut}", file=sys.stderr if isinstance(writer, StreamWriter) else None)
