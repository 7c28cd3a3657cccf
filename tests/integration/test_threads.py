"""Threads of a program that share models: what one thread gets, and a program left as it was."""

import logging
import random
import shutil
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.fx.experimental.symbolic_shapes  # noqa: F401  (PyTorch does so late, and sympy adds a filter of warnings)

from harness import environment
from stores import fault, make_store
from tiny import translation_model
from vtlm_fairseq.evaluation.teacher_forcing import score_translations
from vtlm_fairseq.hub import VTLM, MultimodalTransformer
from vtlm_fairseq.regions import store as region_store
from vtlm_fairseq.text.pipeline import TextPipeline

THREADS, CALLS = 4, 50  # calls of each model


@pytest.fixture(scope="module", autouse=True)
def many_switches():
    """Threads take turns often, so that what they share shows."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


@pytest.fixture(scope="module")
def models(corpus, unusual, tmp_path_factory):
    """An MMT and a VTLM of unusual options with the regions of the test split, their text raw."""
    data = shutil.copytree(corpus.data, tmp_path_factory.mktemp("threads") / "bin")
    TextPipeline(source_lang="en", target_lang="de", steps=("lowercase", "normalise", "tokenise")).save(data)
    options = {"data": str(data), "regions": str(corpus.store("test")), "cpu": True}
    vtlm, mmt = unusual
    return MultimodalTransformer.from_pretrained(mmt, **options), VTLM.from_pretrained(vtlm, **options)


def calls(corpus, models):
    """Functions without arguments: translations with words and scores, and masked words with probabilities."""
    mmt, vtlm = models
    said: dict[int, list] = {}  # by thread; what beam search returned, scores too
    step = mmt.task.inference_step

    def kept(generator, models, sample, *args, **kwargs):
        found = step(generator, models, sample, *args, **kwargs)
        said.setdefault(threading.get_ident(), []).append(
            [[(h["tokens"].tolist(), h["positional_scores"].tolist()) for h in sentence] for sentence in found]
        )
        return found

    mmt.task.inference_step = kept
    sentences, images = corpus.lines("test", "en"), corpus.images("test")
    rng = random.Random(1)

    def translation(lines: list[int], others: list[int], beam: int):
        def call():
            said[threading.get_ident()] = []
            texts = [sentences[i] for i in lines]
            words = mmt.translate(texts, [images[i] for i in others], beam=beam, max_len_b=12, batch_size=3)
            sources, targets = [mmt.encode(text) for text in texts], [mmt.encode_target(text) for text in words]
            scores = score_translations(mmt, sources, targets, regions=mmt.line_regions([images[i] for i in others]))
            return words, said[threading.get_ident()], scores

        return call

    def filling(line: int, other: int):
        source, target = sentences[line], corpus.lines("test", "de")[line]
        masked = " ".join(["<mask>", *source.split()[1:]])
        return lambda: vtlm.fill_mask(masked, target, image=images[other], top=5)

    made = []
    for number in range(CALLS):
        lines, others = ([rng.randrange(len(images)) for _ in range(5)] for _ in range(2))
        made += [translation(lines, others, beam=1 + number % 6), filling(lines[0], others[0])]
    return made


def test_threads_that_share_models_get_what_one_thread_gets(corpus, models):
    """100 calls: beams of 1 to 6, regions of different images, masked words; equal to the last digit."""
    made = calls(corpus, models)
    alone = [call() for call in made]
    words = {text for found in alone[::2] for text in found[0]}
    assert len(words) > 10  # the images and sentences make a difference
    with ThreadPoolExecutor(THREADS) as pool:
        together = list(pool.map(lambda call: call(), made))
    assert together == alone


def test_teacher_forcing_from_threads():
    """The mask of later positions, which the model keeps: each thread gets one of its length and precision."""
    decoder = translation_model().decoder

    def fits(number: int) -> bool:
        states = torch.zeros(3 + number % 9, 1, 8, dtype=(torch.float32, torch.float64)[number % 2])
        mask = decoder.buffered_future_mask(states)
        expected = torch.full((len(states), len(states)), -torch.inf, dtype=states.dtype).triu(1)
        return mask.dtype == states.dtype and torch.equal(mask, expected)

    with ThreadPoolExecutor(THREADS) as pool:
        assert all(pool.map(fits, range(3000)))


def test_threads_share_the_open_files_of_a_store(tmp_path, monkeypatch):
    """Each shard is opened once, however many threads come to it first; and dropped and opened again where many are."""
    shards = [str(tmp_path / f"s{k}.h5") for k in range(6)]
    for k, shard in enumerate(shards):
        make_store(shard, [f"{k}-{i}" for i in range(3)], seed=k)
    store = region_store.RegionStore(shards)
    alone = [store[row].features.tolist() for row in range(18)]
    store.close()
    opened, StoreFile = [], region_store.StoreFile

    def opening(path, *args):
        opened.append(path)
        time.sleep(0.01)
        return StoreFile(path, *args)

    monkeypatch.setattr(region_store, "StoreFile", opening)
    order = random.Random(0).choices(range(18), k=300)
    for limit in (64, 2):
        monkeypatch.setattr(region_store, "MAX_OPEN_FILES", limit)
        with ThreadPoolExecutor(THREADS) as pool:
            together = list(pool.map(lambda row: store[row].features.tolist(), order))
        assert together == [alone[row] for row in order]
        assert limit == 2 or sorted(opened) == shards


def state_of_program() -> dict:
    """What belongs to the program that calls, and not to a library."""
    return {
        "level": logging.root.level,
        "disabled": logging.root.manager.disable,
        "handlers": list(logging.root.handlers),
        "levels": {name: logging.getLogger(name).level for name in ("h5py", "PIL", "torch", "vtlm_fairseq")},
        "warnings": list(warnings.filters),
        "numpy": str(np.random.get_state()),
        "random": random.getstate(),
        "grad": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
    }


def test_the_program_stays_as_it_was(corpus, models, unusual, monkeypatch):
    """Logging, warnings, PyTorch's switches and numpy's generator, which is not even seeded for a moment: another
    thread may draw from it."""
    (_, checkpoint), (mmt, vtlm) = unusual, models
    sentences, images = corpus.lines("test", "en")[:6], corpus.images("test")[:6]
    before = state_of_program()
    for name in ("seed", "set_state", "permutation", "shuffle"):
        monkeypatch.setattr(np.random, name, lambda *args, name=name: pytest.fail(f"numpy.random.{name}"))
    mmt.translate(sentences, images, beam=3)
    vtlm.fill_mask("<mask> word3", "Wort1 Wort3", image=images[0])
    score_translations(mmt, [mmt.encode(sentences[0])], [mmt.encode_target("Wort1")])
    MultimodalTransformer.from_pretrained(checkpoint, region_order="none", preprocessed=True, cpu=True)
    assert state_of_program() == before


def test_importing_leaves_logging_as_it_was():
    """fairseq sets the root logger to DEBUG and gives it a handler."""
    code = (
        "import logging; import vtlm_fairseq.hub, vtlm_fairseq.regions.image_reading; root = logging.root; "
        "print(root.level, root.handlers, root.manager.disable, "
        "[logging.getLogger(name).level for name in ('h5py', 'PIL')])"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "30 [] 0 [0, 0]"


def test_faults_are_exceptions(corpus, mmt, vtlm, nmt):
    """No call from Python ends the program, whatever part of fairseq or of the task finds the fault."""
    store = str(corpus.store("test"))
    assert "--regions" in fault(MultimodalTransformer.from_pretrained, mmt, cpu=True, preprocessed=True)
    assert "text-only" in fault(MultimodalTransformer.from_pretrained, nmt, regions=store, cpu=True, preprocessed=True)
    assert "--regions" in fault(VTLM.from_pretrained, vtlm, cpu=True, preprocessed=True)
    model = MultimodalTransformer.from_pretrained(nmt, cpu=True, preprocessed=True)
    line = [torch.full((600,), 5)]
    assert "longer than" in fault(score_translations, model, line, line)
