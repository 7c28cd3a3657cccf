"""fairseq-train and fairseq-generate taken apart: what their options build, as objects that can be timed."""

import logging
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

import torch
from fairseq import options, tasks, utils
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.trainer import Trainer
from generated import Size

import vtlm_fairseq  # noqa: F401  (registers tasks, models, criterion and optimizer)

COMMON = (
    "--optimizer {optimizer} --adam-betas (0.9,0.98) --lr 1e-4 --clip-norm 5 --dropout 0.1 "
    "--attention-dropout 0.1 --batch-size {batch} --no-save --disable-validation --seed 1 "
    "--required-batch-size-multiple 1"
)
ENCODER = (
    "--encoder-embed-dim {dim} --encoder-ffn-embed-dim {ffn} --encoder-layers {layers} "
    "--encoder-attention-heads {heads}"
)
STOCK = (
    "--decoder-embed-dim {dim} --decoder-ffn-embed-dim {ffn} --decoder-layers {layers} "
    "--decoder-attention-heads {heads} --layernorm-embedding --activation-fn gelu --encoder-learned-pos "
    "--decoder-learned-pos --share-decoder-input-output-embed --no-scale-embedding "
    "--max-source-positions 512 --max-target-positions 512"
)


MASKED = "--task masked_lm --arch roberta --criterion masked_lm --max-positions 512"


class Training:
    """A training run: fairseq's Trainer and batches that lie in memory.

    Args:
        data: folder with ``bin`` and ``regions.h5`` (:func:`generated.write_data`).
        size: of model and batch.
        kind: ``pretraining``, ``translation``, ``stock`` (fairseq's ``transformer``, text only), or ``masked`` (its
            ``roberta``, on blocks as long as a pair with its regions, with about as many masked words).
        device: cpu or cuda.
        regions: whether images are read.
        options: further options of fairseq-train.
        optimizer: its name.
        batches: how many batches to prepare; 0 for none.
    """

    def __init__(
        self,
        data: Path,
        size: Size,
        kind: str,
        *,
        device: str,
        regions: bool = False,
        options: tuple[str, ...] = (),
        optimizer: str = "fused_adam",
        batches: int = 4,
    ):
        self.cfg = configuration(data, size, kind, device, regions=regions, optimizer=optimizer, extra=options)
        torch.manual_seed(1)
        self.task = tasks.setup_task(self.cfg.task)
        self.model = self.task.build_model(self.cfg.model)
        self.trainer = Trainer(self.cfg, self.task, self.model, self.task.build_criterion(self.cfg.criterion))
        self.batches = []
        if batches:
            self.task.load_dataset("train")
            dataset = self.task.dataset("train")
            rows = [range(k * size.batch, (k + 1) * size.batch) for k in range(batches)]
            self.batches = [dataset.collater([dataset[i] for i in row]) for row in rows]
            if device == "cuda":
                self.batches = [utils.apply_to_sample(torch.Tensor.pin_memory, batch) for batch in self.batches]
            self._next = cycle(self.batches).__next__

    def step(self) -> None:
        """One update: forward, backward, clipping, optimizer, fairseq's bookkeeping."""
        self.trainer.train_step([self._next()])


def decoder(
    data: Path, size: Size, kind: str, *, device: str, regions: bool = False, autocast: bool = False
) -> Callable[[], object]:
    """A function that decodes a batch as fairseq-generate does, all hypotheses as long as the sources.

    Arguments: as :class:`Training`'s; ``autocast``: in bf16. The model is drawn at random: what it says does not
    matter to its speed.

    Raises:
        RuntimeError: a hypothesis is of another length.
    """
    setup = Training(data, size, kind, device=device, regions=regions, batches=1)
    length = size.words
    generation = Namespace(beam=size.beam, min_len=length, max_len_a=0, max_len_b=length)
    setup.cfg.generation.beam = size.beam
    model = setup.model.eval()
    model.prepare_for_inference_(setup.cfg)
    generator = setup.task.build_generator([model], generation)
    sample = utils.move_to_cuda(setup.batches[0]) if device == "cuda" else setup.batches[0]

    def decode():
        with torch.autocast(device, torch.bfloat16, enabled=autocast):
            found = setup.task.inference_step(generator, [model], sample)
        lengths = {len(hypothesis["tokens"]) for sentence in found for hypothesis in sentence}
        if lengths != {length + 1} or len(found) != size.batch:
            raise RuntimeError(f"{kind}: {len(found)} sentences with hypotheses of {lengths} tokens")
        return found

    return decode


@contextmanager
def quiet() -> Iterator[None]:
    """Without what fairseq says about each model that it builds, and hydra about being called by fairseq."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def configuration(
    data: Path, size: Size, kind: str, device: str, *, regions: bool, optimizer: str, extra: tuple[str, ...] = ()
):
    """The configuration that fairseq-train makes of a command line."""
    line = f"{COMMON} {ENCODER} " + ("" if kind == "masked" else "-s en -t de ")
    if kind == "masked":
        positions = size.word_positions + size.regions
        words = 0.15 * 2 * size.words / positions
        line += f"{MASKED} --tokens-per-sample {positions} --mask-prob {words:.3f}"
    elif kind == "pretraining":
        line += "--task visual_translation_lm --arch vtlm --criterion vtlm"
    elif kind == "translation":
        line += "--task multimodal_translation --arch multimodal_transformer --criterion cross_entropy"
    else:
        line += "--task translation --arch transformer --criterion cross_entropy " + STOCK
    values = {name: getattr(size, name) for name in ("dim", "ffn", "layers", "heads", "batch")}
    argv = [str(data / "bin"), *line.format(optimizer=optimizer, **values).split(), *extra]
    argv += ["--save-dir", str(data / "unused")]
    if kind in ("pretraining", "translation"):
        argv += ["--regions", str(data / "regions.h5") if regions else "none"]
    if device == "cpu":
        argv.append("--cpu")
    return convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), argv))
