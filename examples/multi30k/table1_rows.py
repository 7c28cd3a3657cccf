"""The systems of Table 1 and the settings of each size, as data. A new row is an entry of `ROWS`, nothing else."""

from dataclasses import dataclass, field

ZERO_MASKING = ("--region-leave-unmasked-prob", "1", "--region-random-prob", "0")
"""0 % visual masking: labels of the selected regions are predicted, the regions stay as they are."""


@dataclass(frozen=True)
class Pretraining:
    """A pre-training that rows start from; it is run once.

    Attributes:
        name: names its folder.
        title: what tables and the screen call it.
        regions: VTLM rather than TLM.
        corpus: ``cc``: Conceptual Captions where they are given, else Multi30k; ``m30k``: always Multi30k;
            ``m30k_signal0``, ``m30k_noboxes``: Multi30k with regions that say nothing, see `Row`.
        flags: of its own, for fairseq-train.
    """

    name: str
    title: str
    regions: bool
    corpus: str = "cc"
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """A translation system, trained once a seed.

    Attributes:
        name: names its folder, and it in ``--rows``.
        title: what the table calls it.
        regions: MMT rather than NMT.
        phase: which settings of a size it is trained with.
        pretraining: name of what it starts from; None: from scratch.
        corpus: ``m30k``; ``joined``: Conceptual Captions and Multi30k in one folder; controls with oracle regions:
            ``m30k_signal0``: features are noise, ``m30k_noboxes``: and every box is the whole image.
        flags: of its own, for fairseq-train; they win over those of the phase.
        stock: fairseq's own task and architecture instead of this package's.
        extra: not in the paper's Table 1; trained only if ``--rows`` names it.
        derangements: with how many of them "shuffled" regions are decoded.
    """

    name: str
    title: str
    regions: bool = False
    phase: str = "finetune"
    pretraining: str | None = None
    corpus: str = "m30k"
    flags: tuple[str, ...] = ()
    stock: bool = False
    extra: bool = False
    derangements: int = 1


PRETRAININGS = {
    item.name: item
    for item in (
        Pretraining("tlm", "TLM", regions=False),
        Pretraining("vtlm", "VTLM", regions=True),
        Pretraining("vtlm0", "VTLM, 0 % visual masking", regions=True, flags=ZERO_MASKING),
        Pretraining("vtlm_m30k", "VTLM on Multi30k", regions=True, corpus="m30k"),
        Pretraining("vtlm_signal0", "VTLM, features are noise", regions=True, corpus="m30k_signal0"),
        Pretraining("vtlm_noboxes", "VTLM, features are noise, no boxes", regions=True, corpus="m30k_noboxes"),
    )
}

ROWS = {
    row.name: row
    for row in (
        Row("nmt", "NMT from scratch", phase="scratch"),
        Row("nmt_cc", "NMT + CC", phase="joined", corpus="joined"),
        Row("mmt", "MMT from scratch", regions=True, phase="scratch"),
        Row("vtlm_m30k_mmt", "VTLM on Multi30k -> MMT", regions=True, pretraining="vtlm_m30k"),
        Row("tlm_nmt", "TLM -> NMT", pretraining="tlm"),
        Row("tlm_mmt", "TLM -> MMT", regions=True, pretraining="tlm"),
        Row("vtlm_nmt", "VTLM -> NMT", pretraining="vtlm"),
        Row("vtlm_mmt", "VTLM -> MMT", regions=True, pretraining="vtlm", derangements=5),
        Row("vtlm0_mmt", "VTLM, 0 % visual masking -> MMT", regions=True, pretraining="vtlm0"),
        Row("stock", "NMT, fairseq's own transformer", phase="scratch", stock=True, extra=True),
        Row("tlm_nmt_random", "TLM -> NMT, cross-attention random", pretraining="tlm",
            flags=("--init-cross-attention", "random"), extra=True),
        Row("vtlm_mmt_signal0", "VTLM -> MMT, features are noise", regions=True, pretraining="vtlm_signal0",
            corpus="m30k_signal0", extra=True),
        Row("vtlm_mmt_noboxes", "VTLM -> MMT, features are noise, no boxes", regions=True, pretraining="vtlm_noboxes",
            corpus="m30k_noboxes", extra=True),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Decoding:
    """How the regions of a test set reach a multimodal system.

    Attributes:
        name: names its output.
        order: of the regions: given, shuffled or hidden.
        flags: for fairseq-generate; its ``--seed`` is that of the derangement.
    """

    name: str
    order: str
    flags: tuple[str, ...] = ()


GIVEN = Decoding("given", "given")
SHUFFLED = Decoding("shuffled", "shuffled", ("--region-order", "shuffle"))
HIDDEN = Decoding("hidden", "hidden", ("--region-order", "none"))
ORDERS = (GIVEN.order, SHUFFLED.order, HIDDEN.order)


def decodings_of(row: Row) -> tuple[Decoding, ...]:
    """Text-only rows decode once, others in each order and with each derangement."""
    if not row.regions:
        return (GIVEN,)
    more = (
        Decoding(f"shuffled{seed}", SHUFFLED.order, (*SHUFFLED.flags, "--seed", str(seed)))
        for seed in range(2, row.derangements + 1)
    )
    return (GIVEN, SHUFFLED, *more, HIDDEN)


@dataclass(frozen=True)
class Phase:
    """Settings of one kind of training.

    Attributes:
        lr: learning rate, the highest where it is warmed up.
        dropout: of all layers; of attention weights it is 0.1.
        updates: at most so many.
        flags: optimiser's betas, schedule, patience.
        save_updates: save so often besides the ends of epochs, in updates; None: not.
    """

    lr: str
    dropout: str
    updates: int
    flags: tuple[str, ...]
    save_updates: int | None = None


@dataclass(frozen=True)
class Size:
    """Settings of ``--size``.

    Attributes:
        vocab: sentencepiece pieces, where the text is prepared and no vocabulary is given.
        width, ffn, layers, heads: of encoder and decoder.
        batch: pairs an update.
        clip: greatest norm of the gradient.
        smoothing: of labels in translation; 0 is plain cross-entropy.
        precision: ``fp32``, or ``bf16`` where the device is fast in it.
        workers, optimizer: loader processes, and what trains.
        phases: by name.
    """

    vocab: int
    width: int
    ffn: int
    layers: int
    heads: int
    batch: int
    clip: str
    smoothing: float
    precision: str
    workers: int
    phases: dict[str, Phase] = field(hash=False)
    optimizer: str = "adam"


ON_GPU = {"precision": "bf16", "optimizer": "fused_adam", "workers": 4}  # of each size
BETAS_PRETRAINING = ("--adam-betas", "(0.9, 0.999)")
BETAS_TRANSLATION = ("--adam-betas", "(0.9, 0.98)")


def _decay(warmup: int, updates: int) -> tuple[str, ...]:
    """Warm up, then linearly to 0 at the last update."""
    return (*BETAS_TRANSLATION, "--lr-scheduler", "polynomial_decay", "--warmup-updates", str(warmup),
            "--total-num-update", str(updates))  # fmt: skip


def _inverse_sqrt(warmup: int, *, patience: int) -> tuple[str, ...]:
    return (*BETAS_TRANSLATION, "--lr-scheduler", "inverse_sqrt", "--warmup-init-lr", "1e-7", "--warmup-updates",
            str(warmup), "--patience", str(patience))  # fmt: skip


_CONSTANT = (*BETAS_PRETRAINING, "--lr-scheduler", "fixed")
_TINY = Phase("3e-3", "0.1", 6, _decay(1, 6), save_updates=2)

SIZES = {
    "small": Size(
        vocab=4_000, width=128, ffn=256, layers=4, heads=4, batch=56, clip="1.0", smoothing=0.1, precision="bf16",
        workers=0,
        phases={
            "pretrain": Phase("2e-3", "0.1", 3108, _decay(400, 3108)),
            "pretrain_m30k": Phase("2e-3", "0.1", 3108, _decay(400, 3108)),
            "scratch": Phase("4e-3", "0", 15_000, _inverse_sqrt(800, patience=1)),
            "joined": Phase("4e-3", "0", 15_000, _inverse_sqrt(800, patience=1)),
            "finetune": Phase("4e-3", "0", 15_000, _inverse_sqrt(400, patience=1)),
        },
    ),
    # sections 2.3 and 2.4; the recipes (*.yaml) hold the same values with their comments
    "paper": Size(
        vocab=10_000, width=512, ffn=2048, layers=6, heads=8, batch=64, clip="5.0", smoothing=0.0, precision="fp32",
        workers=2,
        phases={
            "pretrain": Phase("1e-4", "0.1", 1_500_000, _CONSTANT, save_updates=10_000),
            "pretrain_m30k": Phase("1e-4", "0.1", 150_000, _CONSTANT),
            "scratch": Phase("1e-4", "0.4", 60_000, _inverse_sqrt(4000, patience=20)),
            "joined": Phase("1e-4", "0.4", 1_500_000, _inverse_sqrt(60_000, patience=20)),
            "finetune": Phase("1e-5", "0.1", 60_000, (*_CONSTANT, "--patience", "20")),
        },
    ),
    "tiny": Size(
        vocab=1_000, width=16, ffn=32, layers=2, heads=2, batch=8, clip="1.0", smoothing=0.1, precision="fp32",
        workers=0,
        phases=dict.fromkeys(("pretrain", "pretrain_m30k", "scratch", "joined", "finetune"), _TINY),
    ),
}  # fmt: skip
"""``small``: chosen on val, see PROTOCOL.md. ``tiny`` learns nothing; it is there to test the commands."""
