"""Tables of PROTOCOL-2.md, of the records that results2.py leaves."""

import re
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean

import numpy as np
from results2_systems import PRETRAINED, SPLITS, Run, System, find_system, parse_run

from vtlm_fairseq.errors import VTLMError, reason
from vtlm_fairseq.evaluation.scoring.scores import TOKENISED, seed_statistics
from vtlm_fairseq.evaluation.scoring.seeds import SeedTest, seed_test
from vtlm_fairseq.evaluation.tables import Table
from vtlm_fairseq.files.json_objects import parse_object
from vtlm_fairseq.files.lines import read_lines

LANGUAGES = ("en", "de")
GROUPS = {"all": (0, 1), "named by a region": (1,)}
TESTED = ["from", "to", "p", "detects"]
"""Columns of `seed_test`: 95 % interval, p, and the difference that has p < 0.05 in 80 % of such experiments."""

NOUNS = ("vtlm - noise", "noise - noboxes", "nouns - vtlm", "vtlm15 - vtlm", "vtlm_145k - vtlm", "nouns_145k - nouns")
"""Pairs of systems whose given - shuffled regions are compared."""
ACCURACY = ("vtlm - noise", "vtlm - tlm", "noise - tlm", "nouns - tlm", "nouns - tlmnouns")
"""Pairs whose accuracy on masked nouns is compared, each with what it is given."""
CONTRASTIVE = ("vtlm_mmt - tlm_mmt", "nouns_mmt - tlm_mmt")
"""Pairs of translation systems whose margins' given - shuffled is compared."""
BLEU = tuple(
    "mmt - nmt, tlm_nmt - nmt, vtlm_mmt - mmt, vtlm_mmt - tlm_mmt, vtlm_mmt - tlm_nmt, nouns_mmt - tlm_mmt, "
    "vtlm_mmt - noise_mmt, vtlm_mmt_1k - tlm_mmt_1k, vtlm_mmt_5k - tlm_mmt_5k, vtlm_145k_mmt - tlm_145k_mmt, "
    "nouns_145k_mmt - tlm_145k_mmt".split(", ")
)
"""Pairs of translation systems whose BLEU is compared."""


def read_record(path: Path) -> dict:
    """What a measurement or a training left.

    Raises:
        VTLMError: it is not there, or damaged.
    """
    hint = "take it from the history of the repository, or measure again"
    try:
        text = path.read_bytes()
    except OSError as error:
        raise VTLMError(f"{path}: cannot be read ({reason(error)}); {hint}") from None
    return parse_object(text, str(path), hint=hint)


class Records:
    """The records of one split.

    Args:
        folder: ``results2``.
        split: its name, ``valid`` or of the test set.
        references: of the split, read when they are needed.
    """

    def __init__(self, folder: Path, split: str, references: Callable[[], list[str]]) -> None:
        self._folder, self.split, self._read = folder / split, split, references
        self._statistics: dict[str, np.ndarray] = {}

    @cached_property
    def references(self) -> list[str]:
        """Tokenised references."""
        return self._read()

    def seeds(self, measure: str) -> dict[System, list[dict]]:
        """The records of a measure, by system in the order of the protocol, those of its seeds sorted."""
        found: dict[System, list[tuple[int, dict]]] = {}
        for path in self._folder.glob(f"{measure}/*.json"):
            run = parse_run(path.stem)
            found.setdefault(run.system, []).append((run.seed, read_record(path)))
        return {system: [record for _, record in sorted(found[system], key=lambda one: one[0])]
                for system in sorted(found, key=_order)}  # fmt: skip

    def decoded(self, name: str, decoding: str) -> list[Run]:
        """The runs of a system that have decoded the split so."""
        paths = self._folder.glob(f"hyp/{name}.*.{decoding}.de")
        runs = [parse_run(path.name.removesuffix(f".{decoding}.de")) for path in paths
                if re.fullmatch(rf"{re.escape(name)}\.\d+\.{re.escape(decoding)}\.de", path.name)]  # fmt: skip
        return sorted(runs, key=lambda run: run.seed)

    def translators(self) -> list[System]:
        """Systems that have decoded the split."""
        names = {path.name.split(".")[0] for path in self._folder.glob("hyp/*.given.de")}
        return sorted(map(find_system, names), key=_order)

    def bleu_statistics(self, name: str, decoding: str) -> np.ndarray:
        """[seeds, N, M] of a system; of several derangements (``shuffled``) the mean of their statistics."""
        made = []
        for run in self.decoded(name, "given"):
            files = self._folder.glob(f"hyp/{run.name}.{decoding}*.de")
            kept = [
                path for path in sorted(files) if re.fullmatch(r"\d*", path.name[len(f"{run.name}.{decoding}") : -3])
            ]
            if not kept:
                return np.zeros((0, len(self.references), 0))
            made.append(np.mean([self._of_file(path) for path in kept], axis=0))
        return np.stack(made) if made else np.zeros((0, len(self.references), 0))

    def _of_file(self, path: Path) -> np.ndarray:
        if path.name not in self._statistics:
            self._statistics[path.name] = TOKENISED.statistics(read_lines(path), self.references)
        return self._statistics[path.name]


def _order(system: System) -> tuple:
    base = system.name.split("_")[0]
    return (system.translates, ["nmt", "mmt", *PRETRAINED].index(base), len(system.name), system.name)


def share(statistics: np.ndarray) -> np.ndarray:
    """Per cent: the first of two sums, of the second."""
    return 100 * statistics[..., 0] / np.maximum(statistics[..., 1], 1e-9)


def noun_statistics(records: Sequence[dict], word: str, named: Sequence[int], column: str) -> np.ndarray | None:
    """[seeds, N, 2]: nouns that are right and nouns, of each line; None where there are no regions.

    Args:
        records: of the seeds of a system.
        word: the language.
        named: 1 for nouns that a region names, 0 for the others, or both.
        column: ``given``, ``shuffled`` or ``hidden``.
    """
    place = 3 + ("given", "shuffled", "hidden").index(column)
    lines = sorted({row[0] for record in records for row in record["sentences"][word]})
    at = {line: n for n, line in enumerate(lines)}
    made = np.zeros((len(records), len(lines), 2))
    for sums, record in zip(made, records, strict=True):
        for row in record["sentences"][word]:
            if row[1] in named:
                if row[place] is None:
                    return None
                sums[at[row[0]]] += (row[place], row[2])
    return made


def _tested(test: SeedTest) -> list[float]:
    return [*test.interval, test.p_value, test.detects]


def nouns_table(records: Records) -> Table:
    """Masked nouns, hidden in both languages: accuracy with given, shuffled and hidden regions."""
    rows = []
    for system, seeds in records.seeds("masked-noun").items():
        for word in LANGUAGES:
            for group, named in GROUPS.items():
                of = [noun_statistics(seeds, word, named, column) for column in ("given", "shuffled", "hidden")]
                means = [None if one is None else float(share(one.sum(axis=1)).mean()) for one in of]
                row = [system.title, len(seeds), word.upper(), group, int(of[2][0, :, 1].sum()), *means]
                if of[0] is None:
                    rows.append([*row, *[None] * 5])
                    continue
                test = seed_test(of[0], of[1], share, paired=True)
                rows.append([*row, test.difference, *_tested(test)])
    columns = [
        "system",
        "seeds",
        "language",
        "nouns",
        "number",
        "given",
        "shuffled",
        "hidden",
        "given - shuffled",
        *TESTED,
    ]
    return Table(columns, rows, precision={**dict.fromkeys(columns, 1), "p": 3})


def nouns_pairs_table(records: Records) -> Table:
    """Given - shuffled regions of one system compared with another's; then their accuracies."""
    found, rows = records.seeds("masked-noun"), []
    by_name = {system.name: (system, seeds) for system, seeds in found.items()}
    pairs = [(*pair.split(" - "), "given - shuffled") for pair in NOUNS]
    pairs += [(*pair.split(" - "), "accuracy") for pair in ACCURACY]
    for name, other, what in pairs:
        if name not in by_name or other not in by_name:
            continue
        (system, seeds), (baseline, others) = by_name[name], by_name[other]
        for word in LANGUAGES:
            for group, named in GROUPS.items():
                of = [_asked(one, word, named, what) for one in (seeds, others)]
                test = seed_test(*of, share)
                rows.append([system.title, baseline.title, what, word.upper(), group, f"{len(seeds)} and {len(others)}",
                             test.difference, *_tested(test)])  # fmt: skip
    columns = ["system", "compared with", "what", "language", "nouns", "seeds", "difference", *TESTED]
    return Table(columns, rows, precision={**dict.fromkeys(columns, 1), "p": 3})


def _asked(seeds: Sequence[dict], word: str, named: Sequence[int], what: str) -> np.ndarray:
    """Statistics of given - shuffled, or of the accuracy with what the system is given: of TLM, nothing."""
    given = noun_statistics(seeds, word, named, "given")
    if what == "accuracy":
        return noun_statistics(seeds, word, named, "hidden") if given is None else given
    given[..., 0] -= noun_statistics(seeds, word, named, "shuffled")[..., 0]
    return given


def last_words_table(records: Records) -> Table:
    """Masked last words, those that a region names and the others: means over seeds."""
    rows, split = [], records.split
    for system, seeds in records.seeds("last-word").items():
        tables = [{(row["regions"], row["masked"]): row for row in record["rows"]} for record in seeds]
        masked = dict.fromkeys(row["masked"] for row in seeds[0]["rows"])
        for what in masked:
            count = next(row for row in seeds[0]["rows"] if row["masked"] == what)[f"{split} of"]
            if not what.startswith("BOTH") or not count:
                continue
            means = [fmean(table[order, what][split] for table in tables) if (order, what) in tables[0] else None
                     for order in ("given", "shuffle", "none")]  # fmt: skip
            gap = None if means[0] is None else means[0] - means[1]
            rows.append(
                [system.title, len(seeds), what.removeprefix("BOTH, ").replace("BOTH", "all"), count, *means, gap]
            )
    columns = ["system", "seeds", "last words", "number", "given", "shuffled", "no regions", "given - shuffled"]
    return Table(columns, rows, precision=dict.fromkeys(columns, 1))


def margin_statistics(seeds: Sequence[dict]) -> np.ndarray:
    """[seeds, images, 5]: lines, margin, shuffled margin, right, shuffled right of each image, sums over its lines."""
    return np.array([record["sentences"] for record in seeds])


def ratio(statistics: np.ndarray) -> np.ndarray:
    """The first of two sums by the second."""
    return statistics[..., 0] / statistics[..., 1]


def contrastive_table(records: Records) -> Table:
    """Contrastive translations with the noun hidden: margin of the right one, given - shuffled regions."""
    rows = []
    for system, seeds in records.seeds("contrastive").items():
        sums = margin_statistics(seeds)
        lines = sums[..., 0].sum(axis=1)
        right = 100 * float((sums[..., 3].sum(axis=1) / lines).mean())
        row = [system.title, len(seeds), int(lines[0]), right]
        if not system.regions:
            rows.append([*row, *[None] * 6])
            continue
        test = seed_test(sums[..., [1, 0]], sums[..., [2, 0]], ratio, paired=True)
        shuffled = 100 * float((sums[..., 4].sum(axis=1) / lines).mean())
        rows.append([*row, shuffled, test.difference, *_tested(test)])
    columns = ["system", "seeds", "lines", "right, %, given", "right, %, shuffled", "margin, given - shuffled", *TESTED]
    return Table(columns, rows, precision={"margin, given - shuffled": 4, "from": 4, "to": 4, "p": 3, "detects": 4})


def contrastive_pairs_table(records: Records) -> Table:
    """What regions add to the margins of one system, compared with what they add to another's."""
    found = {system.name: (system, margin_statistics(seeds))
             for system, seeds in records.seeds("contrastive").items()}  # fmt: skip
    rows = []
    for pair in CONTRASTIVE:
        if all(name in found for name in pair.split(" - ")):
            of = [found[name] for name in pair.split(" - ")]
            gains = [np.stack([sums[..., 1] - sums[..., 2], sums[..., 0]], axis=-1) for _, sums in of]
            test = seed_test(*gains, ratio)
            rows.append([*(system.title for system, _ in of), f"{len(gains[0])} and {len(gains[1])}",
                         test.difference, *_tested(test)])  # fmt: skip
    columns = ["system", "compared with", "seeds", "given - shuffled", *TESTED]
    return Table(columns, rows, precision={"given - shuffled": 4, "from": 4, "to": 4, "p": 3, "detects": 4})


def grounding_table(records: Records) -> Table:
    """The README's: what is right with own regions and with another image's, in both languages and in translation."""
    rows = []
    for row in nouns_table(records).rows:
        system, seeds, language, nouns, _, given, shuffled, _, difference, *tested = row
        if nouns != "all" and given is not None:
            rows.append([system, seeds, f"masked noun, {language}", given, shuffled, difference, *tested[:2]])
    for system, seeds in records.seeds("contrastive").items():
        if system.regions:
            sums = margin_statistics(seeds)
            given, shuffled = sums[..., [3, 0]], sums[..., [4, 0]]
            means = [float(share(one.sum(axis=1)).mean()) for one in (given, shuffled)]
            test = seed_test(given, shuffled, share, paired=True)
            rows.append([system.title, len(seeds), "right translation of two", *means, test.difference, *test.interval])
    columns = ["system", "seeds", "what is right, %", "own regions", "another image's", "difference", "from", "to"]
    return Table(columns, rows, precision=dict.fromkeys(columns, 1))


def bleu_table(records: Records, prefix: str = "") -> Table:
    """BLEU with given, shuffled and hidden regions; with ``mask.`` of the sentences whose noun is masked."""
    rows = []
    for system in records.translators():
        of = {order: records.bleu_statistics(system.name, prefix + order) for order in ("given", "shuffled", "none")}
        if not len(of["given"]):
            continue
        scores = {order: TOKENISED.scores(one.sum(axis=1)) for order, one in of.items() if len(one)}
        mean, deviation, _ = seed_statistics(list(map(float, scores["given"])))
        others = [float(scores[order].mean()) if order in scores else None for order in ("shuffled", "none")]
        row = [system.title, len(of["given"]), mean, deviation, *others]
        if not len(of["shuffled"]):
            rows.append([*row, *[None] * 5])
            continue
        test = seed_test(of["given"], of["shuffled"], TOKENISED.scores, paired=True)
        rows.append([*row, test.difference, *_tested(test)])
    columns = ["system", "seeds", "BLEU, given", "deviation", "shuffled", "hidden", "given - shuffled", *TESTED]
    return Table(columns, rows, precision={"p": 3})


def bleu_pairs_table(records: Records) -> Table:
    """Systems compared by one test of seeds and sentences together."""
    rows = []
    for pair in BLEU:
        names = pair.split(" - ")
        ours, theirs = (records.bleu_statistics(name, "given") for name in names)
        if len(ours) and len(theirs):
            test = seed_test(ours, theirs, TOKENISED.scores)
            rows.append([*(find_system(name).title for name in names), f"{len(ours)} and {len(theirs)}",
                         test.difference, *_tested(test)])  # fmt: skip
    return Table(["system", "compared with", "seeds", "difference of mean BLEU", *TESTED], rows, precision={"p": 3})


def attention_table(records: Records) -> Table:
    """Share of cross-attention on regions, by decoder layer: means over seeds."""
    rows = []
    for system, seeds in records.seeds("attention").items():
        for k, first in enumerate(seeds[0]["rows"]):
            masses = [record["rows"][k]["mass"] for record in seeds]
            rows.append([system.title, len(seeds), first["layer"], fmean(masses), first["uniform"]])
    return Table(["system", "seeds", "layer", "mass", "uniform"], rows)


def training_table(records: Records) -> Table:
    """The end of each pre-training, means over seeds, and how many updates TLM took to have as many words right."""
    found, rows = records.seeds("training"), []
    curves = {system: [record["epochs"] for record in seeds] for system, seeds in found.items()}
    tlm = next((epochs for system, epochs in curves.items() if system.name == "tlm"), [])
    for system, epochs in curves.items():
        last = {name: fmean(one[-1][name] for one in epochs) for name in epochs[0][-1]}
        there = [epoch["updates"] for epoch in (tlm[0] if tlm else []) if epoch["valid words"] >= last["valid words"]]
        columns = [last[name] if system.regions else None for name in ("train regions", "valid regions")]
        rows.append([system.title, len(epochs), int(last["updates"]), last["train words"], last["valid words"],
                     there[0] if there else None, *columns, last["gradient"]])  # fmt: skip
    columns = ["system", "seeds", "updates", "words right, train", "val", "TLM has as many after",
               "regions right, train", "of val", "gradient norm"]  # fmt: skip
    return Table(columns, rows, precision=dict.fromkeys(columns[3:], 1))


def gradients_table(records: Records) -> Table:
    """Gradients of the two losses in the layers that both share: means over seeds (results2_gradients.py)."""
    rows = []
    for system, seeds in records.seeds("gradients").items():
        words, regions, cosine = (fmean(record[name] for record in seeds) for name in ("words", "regions", "cosine"))
        rows.append([system.title, len(seeds), words, regions, regions / words, cosine])
    return Table(["system", "seeds", "words", "regions", "regions / words", "cosine"], rows)


MEASURES: dict[str, Callable[[Records], Table]] = {
    "masked nouns": nouns_table,
    "masked nouns compared": nouns_pairs_table,
    "grounding": grounding_table,
    "last words": last_words_table,
    "contrastive": contrastive_table,
    "contrastive compared": contrastive_pairs_table,
    "translation": bleu_table,
    "translation compared": bleu_pairs_table,
    "masked entities": partial(bleu_table, prefix="mask."),
    "attention": attention_table,
    "training": training_table,
    "gradients": gradients_table,
}

TABLES = {f"{split}: {name}": (SPLITS[split], made) for split in SPLITS for name, made in MEASURES.items()}
"""By what a page calls them, with the split that each is of."""
