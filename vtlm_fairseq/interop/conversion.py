"""From a checkpoint of the paper's code to one of fairseq's."""

import os
from dataclasses import dataclass, field
from types import SimpleNamespace

import torch
from fairseq import models
from fairseq.criterions import CRITERION_DATACLASS_REGISTRY
from fairseq.data import Dictionary
from fairseq.dataclass.configs import FairseqConfig
from fairseq.models import MODEL_DATACLASS_REGISTRY
from fairseq.tasks import TASK_DATACLASS_REGISTRY
from omegaconf import OmegaConf, open_dict
from torch import Tensor

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.files.names import check_languages
from vtlm_fairseq.interop.names import REGION_PARTS, our_layout
from vtlm_fairseq.interop.original import IMAGE_LANGUAGE, OriginalCheckpoint, read_original
from vtlm_fairseq.interop.vocabulary import make_dictionary, our_ids
from vtlm_fairseq.models.description import fill_defaults
from vtlm_fairseq.models.embeddings import IMAGE

_DATACLASSES = {
    "task": TASK_DATACLASS_REGISTRY,
    "model": MODEL_DATACLASS_REGISTRY,
    "criterion": CRITERION_DATACLASS_REGISTRY,
}


@dataclass
class Converted:
    """A converted checkpoint.

    Attributes:
        state: what fairseq saves and loads.
        dictionary: joint dictionary.
        languages: source and target.
        notes: what a user should know, one line each.
    """

    state: dict
    dictionary: Dictionary
    languages: tuple[str, str]
    notes: list[str] = field(default_factory=list)


def convert(path: str, *, folder: str, source_lang: str | None = None, target_lang: str | None = None) -> Converted:
    """Convert a file.

    Args:
        path: a checkpoint of the original code.
        folder: where the new one will lie; its configuration names it as the folder of data.
        source_lang, target_lang: the pair, where the file does not say.

    Raises:
        VTLMError: the file cannot be read, or holds a model that has no counterpart here.
    """
    original = read_original(path)
    dictionary = make_dictionary(original.words, original.counts, path=path)
    notes: list[str] = []
    try:
        parts = {name: _without_unused(original, name, notes) for name in original.parts}
        config = _model_config(original, parts, source_lang=source_lang, target_lang=target_lang)
        tensors = _tensors(original, parts, config, dictionary, notes)
        cfg = _configuration(original, config, folder)
        model = build_model(cfg["model"], dictionary)
        _fill(model, tensors)
    except VTLMError as error:
        raise VTLMError(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise VTLMError(f"{path}: its parameters do not make a model ({reason})") from None
    state = {
        "args": None,
        "cfg": cfg,
        "model": model.state_dict(),
        "criterion": None,
        "optimizer_history": [
            {
                "criterion_name": "CrossEntropyCriterion" if original.is_translation else "VTLMCriterion",
                "optimizer_name": "FairseqAdam",
                "lr_scheduler_state": {},
                "num_updates": 0,
            }
        ],
        "task_state": {"symbols": list(dictionary.symbols)},
        "extra_state": {
            "train_iterator": {"epoch": 1, "iterations_in_epoch": 0},
            "previous_training_time": 0,
            "original_languages": original.languages(),
        },
        "last_optimizer_state": None,
    }
    return Converted(state, dictionary, (config["source_lang"], config["target_lang"]), notes)


def build_model(config: dict, dictionary: Dictionary):
    """A model of this package from the configuration in a checkpoint, in evaluation mode."""
    task = SimpleNamespace(source_dictionary=dictionary, target_dictionary=dictionary)
    return models.build_model(OmegaConf.create(config), task, from_checkpoint=True).eval()


def _without_unused(original: OriginalCheckpoint, name: str, notes: list[str]) -> dict[str, Tensor]:
    """A half without what its model has no use for.

    The original keeps region parameters and heads in every half. A decoder sees no regions, an encoder of a translation
    model predicts nothing, and one that was trained on text alone (``mt_steps`` without ``mmt_steps``) has not trained
    its region parameters.
    """
    unused: tuple[str, ...] = ()
    if name == "decoder":
        unused = REGION_PARTS
    elif name == "encoder":
        text_only = original.params.get("mt_steps") and not original.params.get("mmt_steps")
        unused = ("pred_layer.", *(REGION_PARTS if text_only else ("img_pred_layer.",)))
    tensors = original.parts[name]
    dropped = [key for key in tensors if key.startswith(unused)] if unused else []
    if dropped:
        notes.append(f"without use in the {name}: {', '.join(dropped)}")
    return {key: value for key, value in tensors.items() if key not in dropped}


def _model_config(
    original: OriginalCheckpoint,
    parts: dict[str, dict[str, Tensor]],
    *,
    source_lang: str | None,
    target_lang: str | None,
) -> dict:
    """Sizes by the tensors; what tensors do not show (heads, activation, languages, dropout) by the file's params."""
    params, encoder = original.params, parts["encoder" if original.is_translation else "model"]
    names = [name for name in original.languages() if name != IMAGE_LANGUAGE]
    pair = _language_pair(original, names, source_lang, target_lang)
    has_regions = "projector.linear.weight" in encoder
    heads = params.get("n_heads")
    dim = encoder["embeddings.weight"].size(1)
    if not isinstance(heads, int) or heads < 1 or dim % heads:
        raise VTLMError(f"params hold no 'n_heads' that divides the width {dim}")
    config = {
        "encoder_embed_dim": dim,
        "encoder_ffn_embed_dim": encoder["ffns.0.lin1.weight"].size(0),
        "encoder_layers": _layers(encoder),
        "encoder_attention_heads": heads,
        "activation_fn": "gelu" if params.get("gelu_activation", True) else "relu",
        "dropout": float(params.get("dropout", 0.1)),
        "attention_dropout": float(params.get("attention_dropout", 0.1)),
        "max_positions": encoder["position_embeddings.weight"].size(0),
        "region_activation": "relu" if params.get("visual_relu", True) else "none",
        "langs": ",".join(names),
        "source_lang": pair[0],
        "target_lang": pair[1],
        "region_dim": encoder["projector.linear.weight"].size(1) if has_regions else 0,
        "region_classes": _region_classes(original) if has_regions else 0,
    }
    if original.is_translation:
        decoder = parts["decoder"]
        sizes = {"decoder_ffn_embed_dim": decoder["ffns.0.lin1.weight"].size(0), "decoder_layers": _layers(decoder)}
        config |= {k: v for k, v in sizes.items() if v != config[k.replace("decoder", "encoder")]}
    return config


def _language_pair(
    original: OriginalCheckpoint, names: list[str], source_lang: str | None, target_lang: str | None
) -> tuple[str, str]:
    check_languages(names, "its params")
    pair = original.language_pair() or (None, None)
    pair = (source_lang or pair[0], target_lang or pair[1])
    if None in pair:
        raise VTLMError(f"the file names no single language pair; give -s and -t, two of {', '.join(names)}")
    for name in pair:
        if name not in names:
            raise VTLMError(f"{name!r} is not one of its languages ({', '.join(names)}); see -s and -t")
    if IMAGE in names:
        raise VTLMError(f"a language called {IMAGE!r} has no place here")
    return pair


def _region_classes(original: OriginalCheckpoint) -> int:
    head = original.encoder.get("img_pred_layer.proj.weight")
    classes = original.params.get("num_obj_labels") if head is None else head.size(0)
    if not isinstance(classes, int) or classes < 1:
        raise VTLMError("neither a region head nor params' 'num_obj_labels' tell the number of region classes")
    return classes


def _layers(tensors: dict[str, Tensor]) -> int:
    return len({name.split(".")[1] for name in tensors if name.startswith("attentions.")})


def _tensors(
    original: OriginalCheckpoint,
    parts: dict[str, dict[str, Tensor]],
    config: dict,
    dictionary: Dictionary,
    notes: list[str],
) -> dict[str, Tensor]:
    """All parameters of our model by name."""
    theirs = original.languages()
    rows = [theirs.index(name) if name in theirs else None for name in [*config["langs"].split(","), IMAGE_LANGUAGE]]
    if rows[-1] is None and config["region_dim"]:
        raise VTLMError(f"it has region parameters, but no language {IMAGE_LANGUAGE!r}")
    symbols = our_ids(dictionary.symbols).argsort()
    tensors = {}
    for half, content in parts.items():
        content = _completed(content, half, len(theirs), notes)
        for name, expected, what in (
            ("embeddings.weight", len(dictionary), "symbols of the vocabulary"),
            ("lang_embeddings.weight", len(theirs), "languages"),
        ):
            if content[name].size(0) != expected:
                raise VTLMError(f"{name} of {half} has {content[name].size(0)} rows for {expected} {what}")
        row = _fresh_row(config["encoder_embed_dim"])
        named = our_layout(content, symbols=symbols, languages=rows, image_row=row)
        prefix = "decoder" if half == "decoder" else "encoder"
        for name, tensor in named.items():
            if half == "decoder":
                tensors[f"decoder.{name.replace('word_head', 'output_projection')}"] = tensor
            elif name.startswith("word_head."):
                tensors[name.replace("word_head", "lm_head")] = tensor
            elif name.startswith("region_head."):
                tensors[name] = tensor
            else:
                tensors[f"{prefix}.{name}"] = tensor
    if rows[-1] is None:
        notes.append("it has no language row for images: a fresh one")
    return tensors


def _completed(content: dict[str, Tensor], half: str, languages: int, notes: list[str]) -> dict[str, Tensor]:
    """With what the original leaves out: biases that are 0, language rows of a model that has none."""
    content = dict(content)
    head = content.get("pred_layer.proj.weight")
    if head is not None and not torch.equal(head, content["embeddings.weight"]):
        raise VTLMError(f"input and output embeddings of {half} are not tied, as they are in every model here")
    for linear in ("projector.linear", "regional_encodings.linear"):
        if f"{linear}.weight" in content and f"{linear}.bias" not in content:
            content[f"{linear}.bias"] = torch.zeros(content[f"{linear}.weight"].size(0))
            notes.append(f"{linear} of {half} has no bias: 0")
    if "lang_embeddings.weight" not in content:
        content["lang_embeddings.weight"] = torch.zeros(languages, content["embeddings.weight"].size(1))
        notes.append(f"{half} has no language embeddings: 0")
    return content


def _fresh_row(dim: int) -> Tensor:
    """A language row as a new model would draw it, the same each time."""
    return torch.randn(dim, generator=torch.Generator().manual_seed(1)) * dim**-0.5


def _fill(model, tensors: dict[str, Tensor]) -> None:
    """Load the parameters; every one must be there, with its shape."""
    wanted = model.state_dict()
    version = {name: tensor for name, tensor in wanted.items() if name == "decoder.version"}  # fairseq's format marker
    given = {**version, **tensors}
    if "lm_head.weight" not in given and "lm_head.weight" in wanted:
        given["lm_head.weight"] = given["encoder.embed_tokens.weight"]
    for name in wanted:
        if name not in given:
            raise VTLMError(f"nothing in it becomes {name}")
        if given[name].shape != wanted[name].shape:
            raise VTLMError(f"{name} would be {tuple(given[name].shape)}, the model has {tuple(wanted[name].shape)}")
    for name in given:
        if name not in wanted:
            raise VTLMError(f"{name} has no place in the model")
    model.load_state_dict(given)


def _configuration(original: OriginalCheckpoint, config: dict, folder: str) -> dict:
    """The whole configuration, as fairseq-train would have saved it."""
    folder = os.path.abspath(folder)
    parts = (
        {"task": "multimodal_translation", "model": "multimodal_transformer", "criterion": "cross_entropy"}
        if original.is_translation
        else {"task": "visual_translation_lm", "model": "vtlm", "criterion": "vtlm"}
    )
    cfg = OmegaConf.structured(FairseqConfig())
    with open_dict(cfg):
        for part, name in parts.items():
            cfg[part] = OmegaConf.structured(_DATACLASSES[part][name](_name=name))
    fill_defaults(cfg.model)
    cfg.task.data = cfg.checkpoint.save_dir = folder
    cfg = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    cfg["model"].update(config)
    for name in ("langs", "source_lang", "target_lang"):
        cfg["task"][name] = config[name]
    for name in ("max_source_positions", "max_target_positions"):
        cfg["task"][name] = config["max_positions"]
    return cfg
