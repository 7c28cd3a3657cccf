"""Recompute the outputs in a reference file of the original code, through the public classes of this package."""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import torch
from fairseq.criterions.cross_entropy import CrossEntropyCriterion
from fairseq.data import Dictionary
from fairseq.sequence_generator import SequenceGenerator
from torch import Tensor

from vtlm_fairseq.checkpoints import load_checkpoint, model_config
from vtlm_fairseq.criterions.vtlm import VTLMCriterion
from vtlm_fairseq.data.translation_lm_dataset import IGNORE
from vtlm_fairseq.errors import VTLMError, reason
from vtlm_fairseq.interop import ABSOLUTE
from vtlm_fairseq.interop.conversion import build_model
from vtlm_fairseq.interop.names import BOX_COLUMNS
from vtlm_fairseq.interop.original import IMAGE_LANGUAGE
from vtlm_fairseq.interop.vocabulary import our_ids
from vtlm_fairseq.models.multimodal_transformer import MultimodalTransformer
from vtlm_fairseq.models.vtlm import VTLMModel

RELATIVE, LOG_PROBABILITY = 1e-6, 1e-4
REGION_INPUTS = ("features", "boxes")


@dataclass(frozen=True)
class Kind:
    """One kind of reference file: names of its arrays."""

    name: str
    inputs: tuple[str, ...]
    region_inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    region_outputs: tuple[str, ...]


PRETRAINING = Kind(
    "pre-training",
    ("tokens_in", "tokens", "lengths", "positions", "langs", "text_pred_mask"),
    ("region_pred_mask", *REGION_INPUTS, "labels"),
    ("tlm_hidden_text", "tlm_mlm_logits", "tlm_mlm_loss"),
    (
        "hidden_text",
        "hidden_regions",
        "mlm_logits",
        "mlm_loss",
        "mrc_logits",
        "mrc_loss",
        "unmasked_regions_hidden_text",
    ),
)
TRANSLATION = Kind(
    "translation",
    ("src", "src_lengths", "tgt", "tgt_lengths"),
    REGION_INPUTS,
    (
        "nmt_encoder_out",
        "decoder_pred_mask",
        "nmt_decoder_logits",
        "nmt_decoder_loss",
        "nmt_greedy_tokens",
        "nmt_greedy_logprob",
    ),
    ("encoder_out", "decoder_hidden", "decoder_logits", "decoder_loss", "greedy_tokens", "greedy_logprob"),
)


class ConvertedModel:
    """A converted checkpoint, and the original's numbering of symbols and languages.

    Raises:
        VTLMError: unreadable, or not converted from the original code.
    """

    def __init__(self, path: str):
        state = load_checkpoint(path)
        config = model_config(state)
        symbols = (state.get("task_state") or {}).get("symbols")
        if symbols is None or "langs" not in config:
            raise VTLMError(f"{path}: not a checkpoint of this package; make one with vtlm-convert checkpoint")
        self.dictionary = Dictionary()
        for symbol in symbols[self.dictionary.nspecial :]:
            self.dictionary.add_symbol(symbol)
        try:
            self.ids = our_ids(symbols)
            self.model = build_model(config, self.dictionary)
            self.model.load_state_dict(state["model"], strict=True)
        except VTLMError as error:
            raise VTLMError(f"{path}: {error}") from None
        self.task = SimpleNamespace(source_dictionary=self.dictionary, target_dictionary=self.dictionary)
        self.has_regions = config["region_dim"] > 0
        languages = config["langs"].split(",")
        theirs = (state.get("extra_state") or {}).get("original_languages") or sorted([*languages, IMAGE_LANGUAGE])
        rows = {name: row for row, name in enumerate([*languages, IMAGE_LANGUAGE])}
        self.language_rows = torch.tensor([rows[name] for name in theirs])

    @property
    def kind(self) -> Kind:
        """The kind of reference that fits the model."""
        return PRETRAINING if isinstance(self.model, VTLMModel) else TRANSLATION

    def tokens(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """B x T in our numbering, padded behind each sentence's length."""
        beyond = torch.arange(tokens.size(1)) >= lengths.unsqueeze(1)
        return self.ids[tokens].masked_fill(beyond, self.dictionary.pad())

    def logits(self, logits: Tensor) -> Tensor:
        """n x V, columns in the original's order."""
        return logits[:, self.ids]


def check(path: str, reference: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Compute every output of a reference file.

    Args:
        path: a converted checkpoint.
        reference: ``.npz`` of the fixtures' form, of either kind.

    Returns:
        expected and computed outputs by name, in the file's order.

    Raises:
        VTLMError: an array is missing, unknown, or of another shape than what is computed.
    """
    converted = ConvertedModel(path)
    arrays = read_arrays(reference)
    kind, model = converted.kind, converted.model
    inputs = kind.inputs + (kind.region_inputs if converted.has_regions else ())
    outputs = kind.outputs + (kind.region_outputs if converted.has_regions else ())
    missing = [name for name in (*inputs, *outputs) if name not in arrays]
    if missing:
        raise VTLMError(f"{reference}: not a whole {kind.name} reference, it lacks {', '.join(missing)}")
    unknown = [name for name in arrays if name not in (*kind.inputs, *kind.region_inputs, *outputs)]
    if unknown:
        raise VTLMError(f"{reference}: {', '.join(unknown)} cannot be computed from {path}; it is of another model")
    compute: Callable = pretraining_outputs if isinstance(model, VTLMModel) else translation_outputs
    tensors = {name: torch.from_numpy(values) for name, values in arrays.items()}
    try:
        with torch.no_grad():
            computed = {name: value.numpy() for name, value in compute(converted, tensors).items()}
    except (RuntimeError, IndexError, ValueError) as error:
        raise VTLMError(f"{reference}: its arrays do not fit the model ({str(error).splitlines()[0]})") from None
    expected = {name: values for name, values in arrays.items() if name in outputs}
    for name, values in expected.items():
        if computed[name].shape != values.shape:
            raise VTLMError(
                f"{reference}: {name} is {values.shape}, the model gives {computed[name].shape}; it is of another model"
            )
    return expected, {name: computed[name].astype(values.dtype) for name, values in expected.items()}


def read_arrays(path: str) -> dict[str, np.ndarray]:
    """The arrays of a ``.npz`` file without pickled objects.

    Raises:
        VTLMError: unreadable.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # numpy and zipfile raise many kinds
        raise VTLMError(f"--reference {path}: not a readable .npz file ({reason(error)})") from None


@dataclass(frozen=True)
class Comparison:
    """How far a computed output is from the expected one.

    Attributes:
        name: of the output.
        shape: of both.
        difference: largest absolute difference; nan where a value is not a number.
        relative: the same, relative to the expected values' largest.
        limit: largest difference allowed.
        is_relative: whether ``limit`` is meant so.
    """

    name: str
    shape: tuple[int, ...]
    difference: float
    relative: float
    limit: float
    is_relative: bool

    @property
    def passes(self) -> bool:
        """Whether it is within the limit."""
        return (self.relative if self.is_relative else self.difference) <= self.limit

    def __str__(self) -> str:
        shape = "x".join(map(str, self.shape)) or "scalar"
        relative = f" (relative {self.relative:.1e})" if self.is_relative else ""
        verdict = "ok" if self.passes else "ABOVE"
        return f"{self.name:<30}{shape:<12}max |difference| {self.difference:.2e}{relative}  {verdict} ({self.limit:g})"


def compare(name: str, expected: np.ndarray, computed: np.ndarray, *, absolute: float = ABSOLUTE) -> Comparison:
    """Compare an output; ``absolute`` is the limit of states and logits."""
    limit, is_relative = absolute, False
    if name.endswith("_loss"):
        limit, is_relative = RELATIVE, True
    elif name.endswith("_logprob"):
        limit = LOG_PROBABILITY
    elif name.endswith(("_tokens", "_mask")):
        limit = 0.0
    theirs, ours = expected.astype(np.float64), computed.astype(np.float64)
    difference = float(np.abs(theirs - ours).max(initial=0))
    scale = float(np.abs(theirs).max(initial=0))
    relative = difference / scale if scale else difference
    return Comparison(name, expected.shape, difference, relative, limit, is_relative)


def pretraining_outputs(converted: ConvertedModel, arrays: dict[str, Tensor]) -> dict[str, Tensor]:
    """Outputs of :data:`PRETRAINING` from its inputs."""
    text = {
        "src_tokens": converted.tokens(arrays["tokens_in"], arrays["lengths"]),
        "src_lengths": arrays["lengths"],
        "positions": arrays["positions"],
        "langs": converted.language_rows[arrays["langs"]],
    }
    target = converted.tokens(arrays["tokens"], arrays["lengths"])
    found = {f"tlm_{name}": value for name, value in _pretraining(converted, arrays, text, target, {}).items()}
    if converted.has_regions:
        regions = _region_inputs(arrays)
        masked = {**regions, "region_mask": arrays["region_pred_mask"]}
        found |= _pretraining(converted, arrays, text, target, masked)
        unmasked = converted.model.encoder(**text, **regions)["encoder_out"][0].transpose(0, 1)
        found["unmasked_regions_hidden_text"] = _text_states(
            unmasked, text["src_tokens"].eq(converted.dictionary.pad())
        )
    return found


def _pretraining(
    converted: ConvertedModel, arrays: dict[str, Tensor], text: dict, target: Tensor, regions: dict
) -> dict[str, Tensor]:
    """States, logits and losses with or without regions."""
    model: VTLMModel = converted.model
    pad = converted.dictionary.pad()
    net_input = {**text, **regions}
    words = arrays["text_pred_mask"]
    sample = {"net_input": net_input, "target": target.masked_fill(~words, pad), "ntokens": 0, "nsentences": len(words)}
    selected = None
    if regions:
        selected = arrays["region_pred_mask"]
        sample["region_target"] = arrays["labels"].masked_fill(~selected, IGNORE)
    states = model.encoder(**net_input)["encoder_out"][0].transpose(0, 1)
    word_logits, region_logits = model(**net_input, masked_tokens=words, selected_regions=selected)
    _, _, log = VTLMCriterion(converted.task, mrc_weight=1.0)(model, sample)
    found = {
        "hidden_text": _text_states(states, text["src_tokens"].eq(pad)),
        "mlm_logits": converted.logits(time_major(word_logits, words)),
        "mlm_loss": log["mlm_loss_sum"] / log["mlm_count"],
    }
    if regions:
        found["hidden_regions"] = states[:, text["src_tokens"].size(1) :]
        found["mrc_logits"] = time_major(region_logits, selected)
        found["mrc_loss"] = log["mrc_loss_sum"] / log["mrc_count"]
    return found


def translation_outputs(converted: ConvertedModel, arrays: dict[str, Tensor]) -> dict[str, Tensor]:
    """Outputs of :data:`TRANSLATION` from its inputs."""
    source = {
        "src_tokens": converted.tokens(arrays["src"], arrays["src_lengths"]),
        "src_lengths": arrays["src_lengths"],
    }
    target = converted.tokens(arrays["tgt"], arrays["tgt_lengths"])
    found = {}
    for prefix, regions in (("nmt_", {}), ("", _region_inputs(arrays))) if converted.has_regions else (("nmt_", {}),):
        width = arrays[f"{prefix}greedy_tokens"].size(1)
        outputs = _translation(converted, {**source, **regions}, target, arrays["tgt_lengths"], greedy_width=width)
        found |= {f"{prefix}{name}": value for name, value in outputs.items()}
    found["decoder_pred_mask"] = found["nmt_decoder_pred_mask"]
    return found


def _translation(
    converted: ConvertedModel, net_input: dict, target: Tensor, lengths: Tensor, *, greedy_width: int
) -> dict[str, Tensor]:
    """States, logits, loss and greedy translations with or without regions; teacher-forced by the whole target."""
    model: MultimodalTransformer = converted.model
    pad = converted.dictionary.pad()
    predicted = torch.arange(target.size(1)) < lengths.unsqueeze(1) - 1
    following = torch.cat([target[:, 1:], torch.full_like(target[:, :1], pad)], dim=1).masked_fill(~predicted, pad)
    net_input = {**net_input, "prev_output_tokens": target}
    logits, _ = model(**net_input)
    hidden, _ = model(**net_input, features_only=True)
    sample = {"net_input": net_input, "target": following, "ntokens": int(predicted.sum())}
    loss, count, _ = CrossEntropyCriterion(converted.task, sentence_avg=False)(model, sample)
    tokens, logprob = _greedy(converted, net_input, width=greedy_width)
    return {
        "encoder_out": _regions_first(model, net_input, pad),
        "decoder_hidden": hidden.masked_fill(target.eq(pad).unsqueeze(-1), 0),
        "decoder_pred_mask": predicted,
        "decoder_logits": converted.logits(time_major(logits[predicted], predicted)),
        "decoder_loss": loss / count,
        "greedy_tokens": tokens,
        "greedy_logprob": logprob,
    }


def _greedy(converted: ConvertedModel, net_input: dict, *, width: int) -> tuple[Tensor, Tensor]:
    """Greedy translations from ``</s>`` to ``</s>`` in the original's numbering, B x width, and log-probabilities."""
    generator = SequenceGenerator(
        [converted.model],
        converted.dictionary,
        beam_size=1,
        max_len_b=width - 2,
        min_len=0,
        normalize_scores=False,
    )
    original_ids = converted.ids.argsort()
    eos, pad = (original_ids[i].item() for i in (converted.dictionary.eos(), converted.dictionary.pad()))
    best = [hypotheses[0] for hypotheses in generator.generate([converted.model], {"net_input": net_input})]
    tokens = torch.full((len(best), width), pad)
    tokens[:, 0] = eos
    for row, hypothesis in zip(tokens, best, strict=True):
        row[1 : 1 + len(hypothesis["tokens"])] = original_ids[hypothesis["tokens"]]
    return tokens, torch.stack([hypothesis["positional_scores"].double().sum() for hypothesis in best])


def _region_inputs(arrays: dict[str, Tensor]) -> dict[str, Tensor]:
    features = arrays["features"]
    return {
        "features": features,
        "boxes": arrays["boxes"][..., BOX_COLUMNS],
        "region_padding_mask": torch.zeros(features.shape[:2], dtype=torch.bool),
    }


def _text_states(states: Tensor, padding: Tensor) -> Tensor:
    """B x T x d, zero at padding, as the original has it."""
    return states[:, : padding.size(1)].masked_fill(padding.unsqueeze(-1), 0)


def _regions_first(model: MultimodalTransformer, net_input: dict, pad: int) -> Tensor:
    """Encoder states, B x (R+T) x d, in the original's order of the two streams."""
    inputs = {name: value for name, value in net_input.items() if name != "prev_output_tokens"}
    states = model.encoder(**inputs)["encoder_out"][0].transpose(0, 1)
    padding = net_input["src_tokens"].eq(pad)
    return torch.cat([states[:, padding.size(1) :], _text_states(states, padding)], dim=1)


def time_major(rows: Tensor, mask: Tensor) -> Tensor:
    """Reorder n rows from the order of a B x T mask to that of its transpose."""
    number = torch.full(mask.shape, -1)
    number[mask] = torch.arange(len(rows))
    return rows[number.T[mask.T]]
