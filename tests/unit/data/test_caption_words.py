"""What a word is where words are masked whole, and which words name a region; strategies that go by it."""

import random

import numpy as np
import pytest
from fairseq.data import Dictionary

from stores import make_store
from tiny import PAPER_RATES, folder, line_regions, lm_dataset, pretraining_task
from vtlm_fairseq.data.caption_words import CaptionWords, ClassNames, read_lexicon
from vtlm_fairseq.data.masking import MaskingRates
from vtlm_fairseq.data.region_masking import NamedRegions, RegionMasking
from vtlm_fairseq.data.whole_words import NamedWords, WholeWords
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.regions.store import Regions
from vtlm_fairseq.text.subwords import BPE_KINDS, split_words

EXAMPLES = 10_000
PIECES = "▁a ▁wom a n ▁dog s ▁traffic ▁light ▁ein ▁Hund ▁Amp el ▁sees".split()
CLASSES = ["dog,hound", "traffic light", "cat"]
NOTHING = MaskingRates(0, 0, 0)


def words() -> Dictionary:
    """Of sub-words of sentencepiece."""
    made = Dictionary()
    for piece in PIECES:
        made.add_symbol(piece, n=100)
    made.add_symbol("<mask>", n=0)
    return made


WORDS = words()
TEXT = CaptionWords(WORDS.symbols, "sentencepiece")
MASK, UNK, PAD = WORDS.index("<mask>"), WORDS.unk(), WORDS.pad()


def ids(text: str) -> list[int]:
    return [WORDS.index(piece) for piece in text.split()]


def names(*lexicon: tuple[str, str]) -> ClassNames:
    made = ClassNames(TEXT, CLASSES)
    for word, name in lexicon:
        assert made.add(word, name)
    return made


def dataset(source: str, target: str, *, count: int = EXAMPLES, strategy=WholeWords, rates=PAPER_RATES, **more):
    """So many examples of one pair."""
    found = names(("hund", "dog"), ("ampel", "traffic light"))
    return lm_dataset(
        [[*ids(source), 2]] * count, [[*ids(target), 2]] * count, dictionary=WORDS, rates=rates, train=True, seed=5,
        word_masking=lambda symbols, rates: strategy(symbols._replace(text=TEXT, names=found), rates), **more,
    )  # fmt: skip


def masked(made) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets, [examples, T] each."""
    parts = [made.__getitems__(list(range(at, min(at + 500, len(made))))) for at in range(0, len(made), 500)]
    source, target = (np.concatenate([part.columns[name] for part in parts]) for name in ("tokens", "target"))
    return source.reshape(len(made), -1), target.reshape(len(made), -1)


def assert_shares(hits: np.ndarray, shares) -> None:
    """[examples, n] within three standard deviations of a share for each column."""
    shares = np.broadcast_to(shares, hits.shape[1])
    assert (np.abs(hits.mean(axis=0) - shares) <= 3 * np.sqrt(shares * (1 - shares) / len(hits))).all(), hits.mean(0)


def test_words_begin_where_they_are_split():
    """In token ids as in symbols, for each kind of BPE, at special symbols too."""
    rng = random.Random(3)
    symbols = "<s> <pad> </s> <unk> ▁a b ▁ c@@ d@@@@ 狗 ▁e@@ <mask>".split()
    for bpe in BPE_KINDS * 200:
        tokens = rng.choices(range(len(symbols)), k=rng.randint(1, 9))
        found = CaptionWords(symbols, bpe).heads(np.array(tokens))
        split = split_words([symbols[token] for token in tokens], bpe)
        assert found.tolist() == [word.start for word in split for _ in word]


def test_names_by_hand():
    """Of either language; plural, several words, sub-words; not over the border of the two sentences."""
    pair = np.array([2, *ids("▁a ▁dog s ▁sees ▁traffic ▁light s"), 2, 2, *ids("▁ein ▁Hund ▁traffic"), 2])
    lexicon = names(("HUND", "hounds"), ("ampel", "traffic light"))
    assert lexicon.find(pair).tolist() == [[2, 4, 0], [5, 8, 1], [11, 12, 0]]
    assert names().find(pair).tolist() == [[2, 4, 0], [5, 8, 1]]
    assert lexicon.find(np.array([2, *ids("▁a ▁traffic"), 2, 2, *ids("▁light ▁Amp el"), 2])).tolist() == [[6, 8, 1]]
    longer = ClassNames(TEXT, ["light", "traffic", "traffic light"])
    assert longer.find(np.array(ids("▁traffic ▁traffic ▁light ▁light"))).tolist() == [[0, 1, 1], [1, 3, 2], [3, 4, 0]]
    assert not names().add("hund", "wolf") and names().find(np.array([2, 2])).shape == (0, 3)


def test_a_word_of_three_sub_words():
    """Masked, kept or replaced as one; another sub-word never; `<unk>` stays, and the rest of its word is one."""
    for pair, word in (("▁a ▁wom a n ▁dog", [2, 3, 4]), ("▁a ▁wom <unk> n ▁dog", [2, 4])):
        rates = MaskingRates(0.4, 0.3, 0.4)
        made = dataset(pair, "▁ein", rates=rates, count=400)
        whole = np.array([2, *ids(pair), 2, 2, *ids("▁ein"), 2])
        fates = set()
        for source, target in zip(*masked(made), strict=True):
            selected = target != PAD
            assert selected[word].all() or not selected[word].any()
            assert (target[selected] == whole[selected]).all() and (source[~selected] == whole[~selected]).all()
            assert not (selected & np.isin(whole, [2, UNK])).any() and (source[whole == UNK] == UNK).all()
            hidden, kept = source[word] == MASK, source[word] == whole[word]
            assert hidden.all() or not hidden.any()
            fates.add((selected[word].all(), hidden.all(), kept.all()))
        assert fates == {(False, False, True), (True, True, False), (True, False, True), (True, False, False)}


@pytest.mark.slow
def test_shares_of_whole_words():
    """Each sub-word as by `random`: predicted 15 %, of these 80 % masked; words are independent."""
    source, target = masked(dataset("▁a ▁wom a n ▁dog", "▁ein ▁Amp el"))
    selected = target != PAD
    real = [1, 2, 3, 4, 5, 8, 9, 10]
    assert not np.delete(selected, real, axis=1).any()
    assert_shares(selected[:, real], 0.15)
    assert_shares((source == MASK)[:, real], 0.15 * 0.8)
    heads = [1, 2, 5, 8, 9]
    both = [(selected[:, a] & selected[:, b])[:, None] for a in heads for b in heads if a < b]
    assert_shares(np.concatenate(both, axis=1), 0.15**2)
    other = selected & (source != MASK) & np.isin(np.arange(selected.shape[1]), heads)
    changed = source[other] != target[other]
    assert_shares(changed[:, None], 0.5 * (1 - 1 / len(PIECES)))


def image(labels, count: int = EXAMPLES):
    """Regions of so many examples of one image."""
    lines = line_regions([len(labels)], np.zeros(count, dtype=int))
    features, boxes, _, scores = lines.store[0]
    lines.store.images[0] = Regions(features, boxes, np.array(labels, dtype=int), scores)
    return lines


PAIR = ("▁a ▁dog s ▁sees ▁traffic ▁light", "▁ein ▁Hund")
PLACES = [[1], [2, 3], [4], [5], [6], [9], [10]]  # of its words


@pytest.mark.slow
@pytest.mark.parametrize(("labels", "named"), [([0, 1, 2], [1, 3, 4, 6]), ([1], [3, 4]), ([2], []), ([], [])])
def test_words_that_name_a_region(labels, named):
    """A share of 15 % of the words, whole; where one is predicted it is one of those, each as often."""
    source, target = masked(dataset(*PAIR, strategy=NamedWords, regions=image(labels), region_rates=NOTHING))
    selected = np.stack([(target != PAD)[:, word].all(axis=1) for word in PLACES], axis=1)
    assert (selected == np.stack([(target != PAD)[:, word].any(axis=1) for word in PLACES], axis=1)).all()
    assert_shares(selected.reshape(-1, 1), 0.15)
    heads = [word[0] for word in PLACES]
    assert_shares((source == MASK)[:, heads][selected][:, None], 0.8)
    single = selected[selected.sum(axis=1) == 1]
    chosen = named or range(7)
    assert_shares(single, [1 / len(chosen) if word in chosen else 0 for word in range(7)])
    more = selected[selected.sum(axis=1) > len(named)]
    assert more[:, named].all() and len(more)


@pytest.mark.slow
def test_a_hidden_region_is_named_by_no_word():
    """Its words are not preferred while it is masked or replaced, whether it is predicted or not; kept, they are."""

    class FourFates(RegionMasking):
        def draw(self, image, rates, rng):
            fate, dog = rng.integers(4), image.labels == 0
            selected, masked, random = dog & (fate != 1), dog & (fate in (0, 1)), dog & (fate == 2)
            return selected, masked, random, np.zeros(len(dog))

    made = dataset(*PAIR, count=2000, strategy=NamedWords, regions=image([0, 1], 2000), region_masking=FourFates())
    seen = set()
    for item in made.__getitems__(list(range(2000))):
        words = [k for k, word in enumerate(PLACES) if (item["target"][word] != PAD).all()]
        if len(words) == 1:
            hidden = item["draw"].masked.any() or item["draw"].random.any()
            assert words[0] in ([3, 4] if hidden else [1, 3, 4, 6])
            seen.add((hidden, *words))
    assert len(seen) == 6


@pytest.mark.slow
def test_regions_that_a_caption_names():
    """A share of 15 % of the regions; where one is predicted, it is one that is named, each as often."""
    regional = NamedRegions(None, names(("hund", "dog"), ("ampel", "traffic light")))
    for pair, named in ((("▁a ▁light", "▁ein ▁Hund"), [0, 3]), (("▁a", "▁ein"), [0, 1, 2, 3])):
        made = dataset(*pair, regions=image([0, 1, 2, 0]), region_masking=regional)
        selected = np.concatenate([
            made.__getitems__(list(range(at, at + 500))).draw.selected.reshape(500, 4) for at in range(0, EXAMPLES, 500)
        ])  # fmt: skip
        assert_shares(selected.reshape(-1, 1), 0.15)
        single = selected[selected.sum(axis=1) == 1]
        assert_shares(single, [1 / len(named) if region in named else 0 for region in range(4)])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Words w0 ... w40; classes class0 ... class4."""
    path = tmp_path_factory.mktemp("named")
    folder(path / "bin", {"train": 40, "valid": 5})
    make_store(path / "train.h5", 4)
    make_store(path / "valid.h5", 4, seed=1)
    (path / "lexicon").write_text("W3\tclass1\nw4 \t class2\nw5\tnothing\n")
    (path / "other").write_text("w3\tdog\n")
    (path / "broken").write_text("w3\tclass1\nw3 class1\n")
    (path / "empty").write_text("")
    return path


@pytest.mark.slow
def test_what_the_task_reads(data, caplog):
    """A lexicon, whose words are found; none, where no caption names a class; one of other classes, a broken one."""
    caplog.set_level("INFO")
    assert read_lexicon(str(data / "lexicon"))[1] == ("w4", "class2")
    for argv in (("--word-masking", "named"), ("--region-masking", "named")):
        base = (data / "bin", "--regions", data, *argv)
        task = pretraining_task(*base, "--class-lexicon", data / "lexicon", "--regions-on-device")
        task.load_dataset("train")
        task.load_dataset("valid")
        assert "2 of 3 words name a class" in caplog.text and "in a sample of 40 pairs" in caplog.text
        for more, parts in (((), "class0, class1.*--class-lexicon"), (("--class-lexicon", data / "other"), "'dog'"),
                            (("--class-lexicon", data / "broken"), "broken: line 2"),
                            (("--class-lexicon", data / "empty"), "--class-lexicon .*empty"),
                            (("--class-lexicon", data / "nowhere"), "nowhere")):  # fmt: skip
            with pytest.raises(SystemExit, match=parts):
                pretraining_task(*base, *more).load_dataset("train")
    with pytest.raises(SystemExit, match="--regions"):
        pretraining_task(data / "bin", "--word-masking", "named").load_dataset("train")
    pretraining_task(data / "bin", "--word-masking", "whole-word").load_dataset("train")


@pytest.mark.slow
def test_options_that_change_nothing(data, caplog):
    """A lexicon that no strategy reads, and strategies of regions in a TLM, are warned of; what works is not."""
    lexicon = ("--class-lexicon", data / "lexicon")
    pretraining_task(data / "bin", "--regions", data, *lexicon, "--word-masking", "named").load_dataset("train")
    pretraining_task(data / "bin", "--region-masking", "random", "--region-mask-prob", "0.3").load_dataset("train")
    assert "changes nothing" not in caplog.text
    schedule = ("--region-mask-schedule", "linear:0.1:0.2:3")
    pretraining_task(data / "bin", "--region-masking", "overlap", *schedule).load_dataset("train")
    for name in ("--region-masking overlap", "--region-mask-schedule linear:0.1:0.2:3"):
        assert f"{name} changes nothing without --regions" in caplog.text
    assert "--class-lexicon" not in caplog.text
    pretraining_task(data / "bin", "--regions", data, *lexicon, "--region-masking", "overlap").load_dataset("train")
    assert "lexicon changes nothing" in caplog.text


@pytest.mark.slow
def test_mixtures_that_are_none(data):
    """Shares that are missing, not positive or not 1 together; an unknown part."""
    for text in ("random:0.5", "random:1.2,whole-word:-0.2", "random,whole-word", "random:x,whole-word:1", "random:"):
        with pytest.raises(SystemExit, match="--word-masking.*NAME:SHARE"):
            pretraining_task(data / "bin", "--word-masking", text).load_dataset("train")
    with pytest.raises(SystemExit, match="--word-masking rndom: not known"):
        pretraining_task(data / "bin", "--word-masking", "rndom:0.5,random:0.5").load_dataset("train")
    with pytest.raises(VTLMError, match="line 2"):
        read_lexicon(str(data / "broken"))
