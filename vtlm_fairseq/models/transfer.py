"""From the parameters of a model to those of a new one (``--pretrained``).

A pre-trained encoder fills encoder and decoder of a translation model (paper, sections 2.4 and 3.1). Between two models
of one kind each tensor meets its namesake: TLM to VTLM and back, NMT to MMT and back, the other direction, more
languages.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn as nn
from fairseq.data import Dictionary
from torch import Tensor

from vtlm_fairseq.checkpoints import check_model_name, load_checkpoint, model_config
from vtlm_fairseq.data.dictionary import check_symbols
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.models.description import Description, differ, model_value
from vtlm_fairseq.models.embeddings import IMAGE
from vtlm_fairseq.terminal import get_logger

logger = get_logger(__name__)

# what has to agree between the two models, and the option that sets it
GEOMETRY = {
    "encoder_embed_dim": "--encoder-embed-dim",
    "encoder_ffn_embed_dim": "--encoder-ffn-embed-dim",
    "encoder_layers": "--encoder-layers",
    "encoder_attention_heads": "--encoder-attention-heads",
    "max_positions": "--max-positions",
    "activation_fn": "--activation-fn",
}
DECODER_GEOMETRY = {
    "decoder_ffn_embed_dim": "encoder_ffn_embed_dim",
    "decoder_layers": "encoder_layers",
    "decoder_attention_heads": "encoder_attention_heads",
}
REGION_OPTIONS = ("region_dim", "region_activation", "region_no_bias", "region_layernorm", "region_standardise",
                  "region_positions")  # fmt: skip
REGION_INPUT = "encoder.embed_regions."
REGION_PARAMETERS = (REGION_INPUT, "region_head.", "objective_heads.")
VERSION = "decoder.version"  # fairseq's marker of the decoder's format, not a parameter
CROSS_ATTENTION = {"encoder_attn.": "self_attn.", "encoder_attn_layer_norm.": "self_attn_layer_norm."}


@dataclass
class TransferReport:
    """What became of every tensor: names in the new model, and of the pre-trained ones those without a use."""

    copied: list[str] = field(default_factory=list)
    from_self_attention: list[str] = field(default_factory=list)
    random: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def log(self) -> None:
        """Print the report to fairseq's log."""
        for title, names in (
            ("copied", self.copied),
            ("copied from self-attention", self.from_self_attention),
            ("left random", self.random),
            ("unused of the pre-trained model", self.unused),
        ):
            logger.info("transfer: %d tensors %s%s", len(names), title, _listing(names))
        for note in self.notes:
            logger.info("transfer: %s", note)


def _listing(names: list[str]) -> str:
    return f": {', '.join(names)}" if 0 < len(names) <= 12 else ""


@dataclass
class PretrainedEncoder:
    """A ``vtlm`` or translation checkpoint that a new model begins with.

    Attributes:
        path: the file.
        config: its model configuration.
        state: its parameters by name.
        symbols: its dictionary, None in files that hold none.
        task_state: what its task kept.
        description: what it says of its input.
    """

    path: str
    config: dict
    state: dict[str, Tensor]
    symbols: list[str] | None
    task_state: Mapping[str, Any] = field(default_factory=dict)
    description: Description = field(default_factory=lambda: Description("--pretrained"))

    @property
    def langs(self) -> str:
        """Languages of its embedding rows, comma-separated."""
        return self.config["langs"]

    @property
    def has_decoder(self) -> bool:
        """Whether it is a translation model."""
        return "decoder_layers" in self.config

    @classmethod
    def load(cls, path: str) -> "PretrainedEncoder":
        """Read a checkpoint in restricted mode.

        Raises:
            VTLMError: no such file, unreadable, or not of a model of this package.
        """
        try:
            checkpoint = load_checkpoint(path)
            config, state = model_config(checkpoint), checkpoint["model"]
            check_model_name(config, path)
        except VTLMError as error:
            raise VTLMError(f"--pretrained {error}") from None
        task_state = checkpoint.get("task_state") or {}
        description = Description.of_checkpoint(checkpoint, f"--pretrained {path}")
        return cls(path, config, state, task_state.get("symbols"), task_state, description)

    def check_dictionary(self, dictionary: Dictionary) -> None:
        """Compare symbol by symbol.

        Raises:
            VTLMError: names the first symbol that differs.
        """
        check_symbols(self.symbols, dictionary, f"--pretrained {self.path}")

    def check_geometry(self, cfg) -> None:
        """Compare width, depth and positions with the new model's configuration.

        Raises:
            VTLMError: names the option to change.
        """
        for name, option in GEOMETRY.items():
            if name in self.config and differ(self.config[name], cfg[name]):
                raise VTLMError(
                    f"--pretrained {self.path} has {name} {self.config[name]}, the new model {cfg[name]}; "
                    f"set {option} {self.config[name]}, or choose the arch of the same size"
                )
        for name, counterpart in DECODER_GEOMETRY.items() if "decoder_layers" in cfg else ():
            theirs, source = self.config[counterpart], counterpart
            if self.config.get(name):
                theirs, source = self.config[name], name
            if (cfg[name] or cfg[counterpart]) != theirs:
                option = f"--{name.replace('_', '-')}"
                raise VTLMError(
                    f"--pretrained {self.path} fills the decoder too: its {source} is {theirs}, "
                    f"{option} is {cfg[name]}; " + (f"set {option} {theirs}" if source == name else "omit that option")
                )
        if not self.config["region_dim"] or not cfg["region_dim"] or cfg["fresh_regions"]:
            return
        for name in REGION_OPTIONS if "decoder_layers" in cfg else (*REGION_OPTIONS, "region_classes"):
            theirs, ours = model_value(self.config, name), model_value(cfg, name)
            if theirs != ours:
                raise VTLMError(
                    f"--pretrained {self.path} has {name} {theirs}, the new model {ours}; "
                    "use regions made by the same detector and the same --region-* options, or draw region parameters "
                    "anew with --fresh-regions"
                )

    @torch.no_grad()
    def fill(self, model: nn.Module, cfg, *, init_cross_attention: str) -> TransferReport:
        """Fill ``model``; a decoder from an encoder as the paper says (section 3.1, "Encoder attention parameters").

        Args:
            model: a :class:`MultimodalTransformer` or a :class:`VTLMModel`.
            cfg: its configuration.
            init_cross_attention: ``self-attention`` copies each decoder layer's cross-attention and its LayerNorm
                from the self-attention of the same pre-trained layer, or from the cross-attention of a translation
                model; ``random`` leaves them as they are.

        Returns:
            a report that accounts for every tensor of the new model.

        Raises:
            VTLMError: the two models do not fit.
        """
        if self.has_decoder and "decoder_layers" not in cfg:
            raise VTLMError(
                f"--pretrained {self.path} is a translation model, pre-training begins with a vtlm; choose another"
            )
        self.check_geometry(cfg)
        report = TransferReport()
        used: set[str] = set()
        for name, tensor in model.state_dict().items():
            if name == VERSION:
                continue
            fresh = cfg["fresh_regions"] and name.startswith(REGION_PARAMETERS)
            source, crossed = ("", False) if fresh else self._source(name)
            if source not in self.state or (crossed and init_cross_attention == "random"):
                report.random.append(name)
                continue
            used.add(source)
            if name.endswith("languages.weight"):
                self._copy_languages(name, tensor, self.state[source], cfg, report)
                continue
            if self.state[source].shape != tensor.shape:
                raise VTLMError(
                    f"--pretrained {self.path}: {source} is {tuple(self.state[source].shape)}, {name} of the new "
                    f"model {tuple(tensor.shape)}; use the dictionary and the options of pre-training"
                )
            tensor.copy_(self.state[source])
            (report.from_self_attention if crossed and source != name else report.copied).append(name)
        report.unused = [name for name in self.state if name not in used and name != VERSION]
        if any(name.startswith(REGION_INPUT) for name in report.random):
            why = "--fresh-regions" if self.config["region_dim"] else "the pre-trained model has no regions"
            report.notes.append(f"{why}; the new model's region parameters start fresh")
        return report

    def _source(self, name: str) -> tuple[str, bool]:
        """The pre-trained counterpart of a tensor of the new model, and whether it is one of cross-attention."""
        half, _, rest = name.partition(".")
        if half != "decoder":
            return name, False
        crossing = [(cross, own) for cross, own in CROSS_ATTENTION.items() if f".{cross}" in rest]
        if self.has_decoder:
            return name, bool(crossing)
        if rest.startswith("output_projection."):
            return rest.replace("output_projection.", "lm_head."), False
        for cross, own in crossing:
            return f"encoder.{rest.replace(cross, own)}", True
        return f"encoder.{rest}", False

    def _copy_languages(self, name: str, new: Tensor, old: Tensor, cfg, report: TransferReport) -> None:
        """Language rows meet by name."""
        ours, theirs = [*cfg["langs"].split(","), IMAGE], [*self.langs.split(","), IMAGE]
        for row, lang in enumerate(ours):
            if lang in theirs:
                new[row] = old[theirs.index(lang)]
            else:
                report.notes.append(f"{name}: the pre-trained model has no language {lang!r}, its row starts fresh")
        report.copied.append(name)
