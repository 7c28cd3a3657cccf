"""Classes of a user's own, derived from ours in a folder of his own: all commands, and Python, take them."""

import sys
from pathlib import Path

import pytest

from harness import USER_DIR, pretraining, shell

OWN = '''"""Derived classes under names that say nothing of ours."""

from dataclasses import dataclass, field

import vtlm_fairseq
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import (
    LabelSmoothedCrossEntropyCriterion,
    LabelSmoothedCrossEntropyCriterionConfig,
)
from fairseq.logging import metrics
from fairseq.models import register_model, register_model_architecture
from fairseq.optim import register_optimizer
from fairseq.tasks import register_task

from vtlm_fairseq.criterions.vtlm import VTLMCriterion, VTLMCriterionConfig
from vtlm_fairseq.data.translation_dataset import MultimodalTranslationDataset
from vtlm_fairseq.models.multimodal_transformer import MultimodalTransformer, MultimodalTransformerTinyConfig
from vtlm_fairseq.models.vtlm import VTLMModel, VTLMTinyConfig
from vtlm_fairseq.optim.fused_adam import FusedAdam, FusedAdamConfig
from vtlm_fairseq.tasks.multimodal_translation import MultimodalTranslationConfig, MultimodalTranslationTask
from vtlm_fairseq.tasks.visual_translation_lm import VisualTranslationLMConfig, VisualTranslationLMTask


@dataclass
class OwnPretrainingConfig(VisualTranslationLMConfig):
    own_option: int = field(default=3, metadata={"help": "own"})


@register_task("own_pretraining", dataclass=OwnPretrainingConfig)
class OwnPretraining(VisualTranslationLMTask):
    pass


@register_task("own_translation", dataclass=MultimodalTranslationConfig)
class OwnTranslation(MultimodalTranslationTask):
    def load_dataset(self, split, **kwargs):
        super().load_dataset(split, **kwargs)
        self.datasets[split].__class__ = OwnDataset


class OwnDataset(MultimodalTranslationDataset):
    pass


@dataclass
class OwnEncoderConfig(VTLMTinyConfig):
    decoder_layers: int = field(default=0, metadata={"help": "not that of a translation model"})


@register_model("own_encoder", dataclass=OwnEncoderConfig)
class OwnEncoder(VTLMModel):
    pass


@dataclass
class OwnTranslatorConfig(MultimodalTransformerTinyConfig):
    scale: float = field(default=0.5, metadata={"help": "factor of the logits"})


@register_model("own_translator", dataclass=OwnTranslatorConfig)
class OwnTranslator(MultimodalTransformer):
    @classmethod
    def build_model(cls, cfg, task):
        model = super().build_model(cfg, task)
        model.scale = cfg.scale
        return model

    def forward(self, *args, **kwargs):
        logits, extra = super().forward(*args, **kwargs)
        return logits * self.scale, extra


@register_model_architecture("multimodal_transformer", "own_arch")
def own_arch(args):
    args.encoder_embed_dim = getattr(args, "encoder_embed_dim", 16)
    args.encoder_ffn_embed_dim = getattr(args, "encoder_ffn_embed_dim", 24)
    args.encoder_layers = getattr(args, "encoder_layers", 1)
    args.encoder_attention_heads = getattr(args, "encoder_attention_heads", 2)


@dataclass
class OwnLossConfig(VTLMCriterionConfig):
    factor: float = field(default=2.0, metadata={"help": "of the loss"})


@register_criterion("own_loss", dataclass=OwnLossConfig)
class OwnLoss(VTLMCriterion):
    def __init__(self, task, mrc_weight, factor):
        super().__init__(task, mrc_weight)
        self.factor = factor

    def forward(self, model, sample, reduce=True):
        loss, size, log = super().forward(model, sample, reduce)
        return self.factor * loss, size, log


@register_criterion("own_words", dataclass=LabelSmoothedCrossEntropyCriterionConfig)
class OwnWords(LabelSmoothedCrossEntropyCriterion):
    pass


@register_criterion("own_squares")
class OwnSquares(FairseqCriterion):
    def forward(self, model, sample, reduce=True):
        loss = model.encoder.embed_tokens.weight.square().sum()
        return loss, 1, {"loss": loss.data, "sample_size": 1, "ntokens": 1, "nsentences": 1}

    @classmethod
    def reduce_metrics(cls, logging_outputs):
        metrics.log_scalar("loss", sum(log["loss"] for log in logging_outputs).item())


@register_optimizer("own_adam", dataclass=FusedAdamConfig)
class OwnAdam(FusedAdam):
    pass
'''


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    """A folder for --user-dir."""
    folder = tmp_path_factory.mktemp("own") / "own_classes"
    folder.mkdir()
    (folder / "__init__.py").write_text(OWN)
    return folder


def training(corpus, own, folder, task, arch, *argv) -> list[str]:
    """A command line of fairseq-train with classes of one's own."""
    line = (corpus.data, folder, "--task", task, *argv, "--optimizer", "own_adam")
    return pretraining(*line, regions=corpus.regions, arch=arch, user_dir=own)


@pytest.fixture(scope="module")
def trained(run, corpus, own, tmp_path_factory):
    """Folders of a pre-trained and a translation model of one's own, each resumed with the same line."""
    folder = tmp_path_factory.mktemp("trained")
    loss = ("--criterion", "own_loss", "--factor", "3", "--own-option", "4")
    transfer = ("--criterion", "own_words", "--pretrained", folder / "encoder" / "checkpoint_last.pt")
    lines = {
        "encoder": training(corpus, own, folder / "encoder", "own_pretraining", "own_encoder", *loss),
        "translator": training(corpus, own, folder / "translator", "own_translation", "own_translator", *transfer),
    }
    for name, line in lines.items():
        first, second = (run("fairseq_cli.train", *line, "--max-update", updates) for updates in ("2", "4"))
        assert [[record["num_updates"] for record in done.updates()] for done in (first, second)] == [[1, 2], [3, 4]]
        assert ("tensors copied" in first.output) == (name == "translator")
    return folder


def test_fairseqs_commands(run, corpus, own, trained):
    """Validation, decoding, and what is refused without the folder."""
    encoder, translator = (trained / name / "checkpoint_last.pt" for name in ("encoder", "translator"))
    run.validate(corpus.data, encoder, "--user-dir", own, task="own_pretraining")
    store = ("--regions", corpus.regions)
    decoded = run.generate(corpus.data, translator, "--user-dir", own, "--task", "own_translation", *store)
    assert decoded.ids() == list(range(13))
    run.generate(corpus.data, translator, *store, ok=False).fault("own_translator", "--user-dir")
    line = (corpus.data, "--user-dir", own, "--path", translator, "--cpu")
    run("fairseq_cli.generate", *line, ok=False).fault("--task", "multimodal_translation", "own_translation")


def test_criteria(run, corpus, own, tmp_path):
    """One that derives from fairseq's for words does not train a VTLM; one of no known kind may do what it does."""
    line = (corpus, own, tmp_path, "own_pretraining", "own_encoder", "--max-update", "1", "--no-save", "--criterion")
    refused = run("fairseq_cli.train", *training(*line, "own_words"), ok=False)
    refused.fault("--criterion own_words", "own_pretraining", "vtlm")
    assert len(run("fairseq_cli.train", *training(*line, "own_squares", "--disable-validation")).updates()) == 1


def test_an_arch_without_a_model_of_its_own(run, corpus, own, tmp_path):
    """fairseq's older way to name sizes: trained, resumed, decoded."""
    argv = ("--criterion", "cross_entropy")
    line = training(corpus, own, tmp_path, "multimodal_translation", "own_arch", *argv)
    for updates in ("1", "2"):
        assert len(run("fairseq_cli.train", *line, "--max-update", updates).updates()) == 1
    path, store = tmp_path / "checkpoint_last.pt", ("--regions", corpus.regions)
    decoded = run.generate(corpus.data, path, "--user-dir", own, *store, "--max-len-b", "5")
    argv = ("--preprocessed", "--regions", corpus.store("test"), "--user-dir", own, "--beam", "5", "--max-len-b", "5")
    translated = run.translate(path, *argv, stdin=corpus.stdin("test"))
    assert [line for line in translated.output.splitlines() if "Warning" not in line][-13:] == decoded.hypotheses()


def test_our_commands(run, corpus, own, trained, tmp_path):
    """Each command that reads a checkpoint takes --user-dir; without it one line names that."""
    encoder, translator = (trained / name / "checkpoint_last.pt" for name in ("encoder", "translator"))
    store = ("--regions", corpus.regions, "--cpu")
    commands = [
        ("translate", "--preprocessed", "--path", translator, "--region-order", "none", "--cpu"),
        ("report", corpus.data, "--path", translator, "--out", tmp_path / "a.html", "--lines", "1", *store),
        ("report", corpus.data, "--path", encoder, "--out", tmp_path / "b.html", "--lines", "1", *store),
        ("probe", "mrc", corpus.data, "--system", encoder, *store),
        ("probe", "attention", corpus.data, "--system", translator, *store),
        ("probe", "incongruent", corpus.data, "--system", translator, "--repeats", "1", *store),
    ]
    for command, *argv in commands:
        run(f"vtlm_fairseq.cli.{command}", *argv, "--user-dir", own, stdin="word1\n")
        run(f"vtlm_fairseq.cli.{command}", *argv, ok=False, stdin="word1\n").fault("own_", "--user-dir")
    averaged = tmp_path / "averaged.pt"
    run.convert("average", translator, translator, "--out", averaged, "--user-dir", own)
    run.validate(corpus.data, averaged, "--user-dir", own, task="own_translation")
    misused = ("probe", "incongruent", corpus.data, "--system", encoder, *store, "--user-dir", own)
    run(f"vtlm_fairseq.cli.{misused[0]}", *misused[1:], ok=False).fault("a pre-trained model")


def test_python(run, corpus, own, trained, tmp_path):
    """`from_pretrained` with ``user_dir``: the same translations as the command."""
    script = tmp_path / "script.py"
    script.write_text(f"""
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.hub import VTLM, MultimodalTransformer
options = dict(region_order="none", preprocessed=True, cpu=True)
for kind, name in ((VTLM, "encoder"), (MultimodalTransformer, "translator")):
    try:
        kind.from_pretrained("{trained}/" + name, **options)
    except VTLMError as error:
        assert "--user-dir" in str(error), error
    else:
        raise AssertionError
encoder = VTLM.from_pretrained("{trained}/encoder", user_dir="{own}", **options)
assert len(encoder.fill_mask("word1 <mask>", "Wort1")[0]) == 5
translator = MultimodalTransformer.from_pretrained("{trained}/translator", user_dir="{own}", **options)
print("OUT", translator.translate(["word1 word2"], beam=2, max_len_b=4)[0])
""")
    printed = run(str(script)).output
    argv = ("--preprocessed", "--region-order", "none", "--user-dir", own, "--beam", "2", "--max-len-b", "4")
    path = trained / "translator" / "checkpoint_best.pt"
    translated = run.translate(path, *argv, stdin="word1 word2\n")
    assert f"OUT {translated.output.splitlines()[-1]}" in printed


def test_a_folder_that_cannot_be_imported(run, trained, tmp_path):
    """None, one with a fault, and one whose name is taken."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "__init__.py").write_text("import nowhere_at_all\n")
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("")
    for name, part in (("none", "none"), ("broken", "nowhere_at_all"), ("torch", "globally unique")):
        argv = (trained / "translator/checkpoint_last.pt", "--user-dir", tmp_path / name)
        run.translate(*argv, ok=False, stdin="").fault("--user-dir", "its code was not imported", part)


def test_beside_the_package(corpus, own, tmp_path):
    """A relative folder, from elsewhere, in a process that has imported nothing: fairseq-train finds both."""
    line = training(corpus, own.name, tmp_path / "a", "own_pretraining", "own_encoder", "--criterion", "own_loss")
    trained = shell(sys.executable, "-m", "fairseq_cli.train", *line, "--max-update", "1", cwd=own.parent)
    assert trained.status == 0 and len(trained.updates()) == 1, trained.output[-3000:]
    assert Path(USER_DIR).name == "vtlm_fairseq"
