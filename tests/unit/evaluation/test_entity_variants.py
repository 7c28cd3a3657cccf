"""Entity variants: alignment, which words are masked, what the variants hold, and the real test set's counts."""

import tarfile

import pytest
from fairseq.data import Dictionary
from preparation import DATA, annotation, flickr30k_entities, multi30k, needs_data, write

from stores import fault
from vtlm_fairseq.evaluation.probes.entity_variants import (
    MASKED,
    REMOVED,
    UNTOUCHED,
    Choice,
    align,
    check_variants,
    find_spans,
    make_variants,
    mask_spans,
    phrase_words,
    remove_spans,
)
from vtlm_fairseq.files import write_lines
from vtlm_fairseq.text.pipeline import TextPipeline, learn_sentencepiece

CAPTION = "[/EN#1/people Two young men] 's [/EN#2/clothing red and blue shirts] near [/EN#0/notvisual it] ."
WORDS = "two young men &apos;s red and blue shirts near it .".split()


def spans(line=CAPTION, words=WORDS, *, boxed=(), **choice):
    caption = flickr30k_entities.parse_caption(line)
    boxes = tuple(flickr30k_entities.Box((0, 0, 1, 1), (chain,)) for chain in boxed)
    image = flickr30k_entities.ImageEntities("i", 9, 9, (caption,), boxes)
    return find_spans(image, caption, align(caption.text.split(), words), Choice(**choice))


@pytest.mark.parametrize(
    ("caption", "source", "tokens", "exact"),
    [
        ("A man 's Hat .", "a man &apos;s hat .", ((0,), (1,), (2,), (3,), (4,)), True),
        ("A café .", "a cafe .", ((0,), (1,), (2,)), True),
        # the translated sentence lacks the caption's full stop
        ("A pool .", "a pool", ((0,), (1,), ()), True),
        ('No " 93 " .', "no &quot; 93 . &quot;", ((0,), (), (2,), (), ()), False),
        ("A t-shirt", "a t - shirt", ((0,), (1, 3)), False),
        ("a b c", "ab c", ((0,), (0,), (1,)), False),
    ],
)
def test_alignment(caption, source, tokens, exact):
    found = align(caption.split(), source.split())
    assert (found.tokens, found.exact) == (tokens, exact)


def test_other_letters_do_not_align():
    assert align("a pool .".split(), "a pond .".split()) is None
    assert align("a pool".split(), "a pool in town".split()) is None


def test_head_nouns():
    """The last word of each phrase with a chain above 0."""
    assert spans() == [(2, 3), (7, 8)]
    assert mask_spans(WORDS, spans()) == "two young <mask> &apos;s red and blue <mask> near it .".split()
    assert remove_spans(WORDS, spans()) == "two young &apos;s red and blue near it .".split()


def test_whole_phrases_colours_boxes_and_count():
    assert spans(whole_phrase=True) == [(0, 3), (4, 8)]
    assert mask_spans(WORDS, [(0, 3), (4, 8)]) == "<mask> &apos;s <mask> near it .".split()
    assert spans(what="colour") == [(4, 5), (6, 7)]
    assert spans(boxed_only=True, boxed=[2]) == [(7, 8)]
    assert spans(boxed_only=True, boxed=[3]) == []
    assert spans(count=1) == [(2, 3)]
    assert spans(count=1, boxed_only=True, boxed=[2]) == [(7, 8)]  # the first that may be masked
    assert spans(count=4) == [(2, 3), (7, 8)]
    assert "--whole-phrase" in fault(Choice, what="colour", whole_phrase=True)


def test_head_is_a_word_not_a_mark():
    line = 'A kid with [/EN#5/other the number " 93 "] .'
    assert spans(line, "a kid with the number &quot; 93 . &quot;".split()) == [(6, 7)]
    assert spans('[/EN#5/other " "] x', '" " x'.split()) == []
    # a phrase that begins in the middle of a word takes that word
    caption = flickr30k_entities.parse_caption("see ([/EN#4/people a man] )")
    assert caption.text == "see (a man )"
    assert list(phrase_words(caption, caption.phrases[0])) == [1, 2]


SENTENCES = {
    "1": "[/EN#1/people Two young men] near [/EN#2/clothing a gorgeous shirt] .",
    "2": "[/EN#7/animals Dogs] .",
    "3": "Nothing here .",
}
SOURCE = ["two young men near a gorgeous shirt .", "dogs .", "something else ."]
TARGET = ["zwei junge männer .", "hunde .", "etwas anderes ."]


def prepare(data, split, images, sides, *, known, vocab_size):
    """A prepared folder with a BPE model of lines whose sub-words are in the dictionary."""
    write_lines(write(data / f"{split}.images", ""), images)
    (data / "bpe.model").write_bytes(learn_sentencepiece(known * 2, vocab_size=vocab_size))
    pipeline = TextPipeline("en", "de", bpe="sentencepiece", folder=data)
    words = Dictionary()
    for line in known:
        words.encode_line(pipeline.apply_bpe(line))
    words.add_symbol("<mask>", n=0)
    for lang, lines in zip(("en", "de"), sides, strict=True):
        write_lines(write(data / "references" / f"{split}.{lang}", ""), lines)
        words.save(str(data / f"dict.{lang}.txt"))
    pipeline.save(data)


@pytest.fixture
def world(tmp_path):
    """A prepared folder with a BPE model that splits words, and Entities of three images."""
    prepare(tmp_path / "data", "test", "123", (SOURCE, TARGET), known=[*SOURCE, *TARGET], vocab_size=40)
    for image, line in SENTENCES.items():
        write(tmp_path / "entities" / "Sentences" / f"{image}.txt", f"Another one .\n{line}\n")
        write(tmp_path / "entities" / "Annotations" / f"{image}.xml", annotation(9, 9, [((0, 0, 5, 5), (2, 7))]))
    return tmp_path


def variants(world, **choice):
    return make_variants(world / "data", "test", entities=world / "entities", choice=Choice(**choice))


def test_variants_of_a_test_set(world):
    made = variants(world)
    assert made.variants[MASKED].words == ["two young <mask> near a gorgeous <mask> .", "<mask> .", SOURCE[2]]
    assert made.variants[REMOVED].words == ["two young near a gorgeous .", ".", SOURCE[2]]
    assert made.variants[UNTOUCHED].words == SOURCE
    assert [made.variants[name].masks for name in (UNTOUCHED, MASKED, REMOVED)] == [0, 3, 0]
    heads = sum(len(made.pipeline.apply_bpe(word).split()) for word in ("men", "shirt", "dogs"))
    assert heads > 3, "the BPE model must split a head"
    tokens = {name: variant.tokens for name, variant in made.variants.items()}
    assert tokens[REMOVED] == tokens[UNTOUCHED] - heads
    assert tokens[MASKED] == tokens[REMOVED] + 3
    assert (made.aligned, made.by_letters, made.unaligned) == (2, {}, [3])
    notes = made.notes(Choice())
    assert notes[0] == "3 head nouns in 2 of 3 sentences of test"
    assert notes[1].startswith("MASK: 3 <mask>, ")
    assert notes[-1] == "no caption found for lines 3: nothing is masked there"
    assert variants(world, boxed_only=True).spans == [[(6, 7)], [(0, 1)], []]


def test_one_noun_that_a_box_shows(world):
    """Of three heads in a sentence, of which the last two have boxes, the second alone is hidden; no box, no mask."""
    write(world / "entities" / "Sentences" / "1.txt",
          "[/EN#1/people Two young men] near [/EN#2/clothing a gorgeous shirt] [/EN#7/other .  x]\n")  # fmt: skip
    write(world / "entities" / "Annotations" / "2.xml", annotation(9, 9, []))
    write_lines(world / "data" / "references" / "test.en", ["two young men near a gorgeous shirt . x", *SOURCE[1:]])
    one, every = variants(world, count=1, boxed_only=True), variants(world)
    assert one.spans == [[(6, 7)], [], []] and every.spans == [[(2, 3), (6, 7), (8, 9)], [(0, 1)], []]
    assert one.variants[MASKED].words == ["two young men near a gorgeous <mask> . x", *SOURCE[1:]]
    assert one.variants[REMOVED].words == ["two young men near a gorgeous . x", *SOURCE[1:]]
    assert (one.variants[MASKED].masks, every.variants[MASKED].masks) == (1, 4)


def test_unknown_words_of_a_masked_head_are_accounted_for(world):
    """A masked head takes its <unk> along; the others stay."""
    pipeline = TextPipeline("en", "de", bpe="sentencepiece", folder=world / "data")
    unknown = {pipeline.apply_bpe("shirt").split()[-1], pipeline.apply_bpe("gorgeous").split()[0]}
    for lang in ("en", "de"):
        path = world / "data" / f"dict.{lang}.txt"
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        path.write_text("".join(line for line in lines if line.split()[0] not in unknown), encoding="utf-8")
    pipeline.save(world / "data")
    made = variants(world)
    for variant in made.variants.values():
        assert variant.unknown == sum(piece in unknown for line in variant.pieces for piece in line.split())
    counts = {name: variant.unknown for name, variant in made.variants.items()}
    assert counts[UNTOUCHED] > counts[MASKED] == counts[REMOVED] > 0


def test_bpe_that_does_not_keep_to_words_is_refused(world, monkeypatch):
    """Sub-words that depend on the neighbouring word make the three variants incomparable."""
    monkeypatch.setattr(TextPipeline, "apply_bpe", lambda self, words: words if "<mask>" in words else words[:3])
    assert "test line 1: its sub-words change" in fault(variants, world)


def test_faults(world):
    write_lines(world / "data" / "references" / "test.de", TARGET[:2])
    assert "3 source lines, 2 references and 3 images" in fault(variants, world)
    (world / "data" / "references" / "test.de").write_bytes(b"\xe9\n")
    assert "test.de" in fault(variants, world)
    (world / "data" / "references" / "test.de").unlink()
    assert "references/" in fault(variants, world)
    words = Dictionary.load(str(world / "data" / "dict.en.txt"))
    del words.indices["<mask>"]
    assert "<mask>" in fault(check_variants, None, words)


@pytest.fixture(scope="module")
def flickr_test(tmp_path_factory):
    """test_2016_flickr as words with a BPE model of its own text, and its images' Entities unpacked."""
    folder = tmp_path_factory.mktemp("flickr")
    split = "test_2016_flickr"
    images = multi30k.read_image_ids(DATA / "multi30k/image_splits", split)
    raw = multi30k.read_lines(DATA / "multi30k/raw" / f"{split}.en", option="--raw")
    words = [TextPipeline("en", "de").preprocess(line, "en") for line in raw]
    # so that some pieces of the rest are unknown
    prepare(folder / "data", split, images, (words, words), known=words[:900], vocab_size=1500)
    wanted = set(images)
    with tarfile.open(DATA / "flickr30k_entities.tgz") as archive:
        for member in archive:
            name = member.name.split("/")
            if member.isfile() and name[-1].split(".")[0] in wanted and name[-2] in ("Annotations", "Sentences"):
                write(folder / "entities" / name[-2] / name[-1], archive.extractfile(member).read().decode("utf-8"))
    return folder


@needs_data
@pytest.mark.parametrize(
    ("choice", "masks"),
    [
        (Choice(), 3259),
        (Choice(boxed_only=True), 2836),
        (Choice(boxed_only=True, count=1), 997),
        (Choice(what="colour"), 481),
    ],
)
def test_counts_of_multi30k(flickr_test, choice, masks):
    """3,259 phrases with a chain, 2,836 with a box, 997 sentences with one; 999 captions align token for token."""
    made = make_variants(flickr_test / "data", "test_2016_flickr", entities=flickr_test / "entities", choice=choice)
    assert made.variants[MASKED].masks == sum(map(len, made.spans)) == masks
    assert made.variants[REMOVED].tokens == made.variants[MASKED].tokens - masks
    assert made.aligned == 999
    assert list(made.by_letters) == [383] and made.unaligned == []
