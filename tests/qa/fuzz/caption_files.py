"""Fuzz the files of captions that vtlm-prepare captions reads: CSV, TSV, JSON lines, tar shards, parquet."""

import csv
import io
import json
import random
import tarfile
from importlib.util import find_spec
from pathlib import Path

from fuzzing import Case
from mutations import damage, encoded, sentence, word

from vtlm_fairseq.text.caption_files import CaptionFile
from vtlm_fairseq.text.caption_tables import QUOTING
from vtlm_fairseq.text.pipeline import TextPipeline
from vtlm_fairseq.text.tokenised import watched

KINDS = ("csv", "tsv", "jsonl", "tar", *(["parquet"] if find_spec("pyarrow") else []))


def setup(folder: Path) -> Case:
    """Files of few pairs, whole and damaged."""
    pipeline = TextPipeline("en", "de")

    def case(rng: random.Random) -> None:
        kind = rng.choice(KINDS)
        path = folder / f"x.{kind}"
        rows = [{"image": word(rng), "en": sentence(rng), "de": sentence(rng)} for _ in range(rng.randint(0, 4))]
        data = WRITERS[kind](rng, rows)
        whole = rng.random() < 0.5
        path.write_bytes(data if whole else damage(rng, data))
        columns = None if kind != "tsv" else {name: name for name in ("image", "en", "de")}
        if kind == "tar" and rng.random() < 0.5:
            columns = {"en": ".txt", "de": rng.choice((".de.txt", "de"))}
        more = {"quoting": rng.choice((None, *QUOTING))} if kind in ("csv", "tsv") else {}
        file = CaptionFile(str(path), source_lang="en", target_lang="de", columns=columns, **more)
        pairs = list(watched({"train": file}, pipeline, rng.choice((None, True, False)))["train"])
        for pair in pairs:
            assert pair.image.strip() and len(pair.image.split("\n")) == 1 and "\0" not in "".join(pair[:3]), "odd text"
            assert "\n" not in pair.reason, "a reason of two lines"
        if whole and kind in ("jsonl", "parquet") and not any(pair.reason for pair in pairs):
            expected = [(row["en"], row["de"]) for row in rows]
            assert [pair[1:3] for pair in pairs] == expected, "pairs are lost, made or exchanged"

    return case


def _table(delimiter: str):
    def write(rng: random.Random, rows: list[dict]) -> bytes:
        text = io.StringIO()
        quoting = rng.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
        writer = csv.DictWriter(text, ["de", "image", "en"], delimiter=delimiter, quoting=quoting)
        writer.writeheader()
        writer.writerows(rows)
        return encoded(rng, text.getvalue())

    return write


def _json_lines(rng: random.Random, rows: list[dict]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=rng.random() < 0.5) + "\n" for row in rows).encode()


def _tar(rng: random.Random, rows: list[dict]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for number, row in enumerate(rows):
            key = f"{number}" if rng.random() < 0.8 else row["image"].replace("\0", "")
            record = {**row, "url": "", "status": rng.choice(("success", "failed_to_download", sentence(rng), None, 3))}
            members = {"json": json.dumps(record).encode(), "txt": encoded(rng, row["en"]), "jpg": b"", "de.txt": b"x"}
            for ending, content in rng.sample(sorted(members.items()), rng.choice((2, 4, 4))):
                member = tarfile.TarInfo(f"{key}.{ending}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _parquet(rng: random.Random, rows: list[dict]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    columns = {name: [row[name] for row in rows] for name in ("image", "en", "de")}
    if rng.random() < 0.3:
        columns |= {"key": columns["image"], "url": columns["en"]}
        columns["status"] = [rng.choice(("success", "failed_to_resize", sentence(rng))) for _ in rows]
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), buffer)
    return buffer.getvalue()


WRITERS = {"csv": _table(","), "tsv": _table("\t"), "jsonl": _json_lines, "tar": _tar, "parquet": _parquet}
