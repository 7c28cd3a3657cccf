"""Options that both tasks share."""

from dataclasses import dataclass
from typing import Optional

from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from omegaconf import II

from vtlm_fairseq.options import OPTIONS, ORDERS, setting


@dataclass
class CaptionsConfig(FairseqDataclass):
    """Options that both tasks share."""

    data: Optional[str] = setting(
        None, "folder of binarised data; a:b trains on a and b in alternate epochs, validates on a"
    )
    source_lang: Optional[str] = setting(None, "source language", argparse_alias="-s")
    target_lang: Optional[str] = setting(None, "target language", argparse_alias="-t")
    langs: Optional[str] = setting(None, OPTIONS["--langs"]["help"])
    regions: str = setting("none", OPTIONS["--regions"]["help"])
    any_detector: bool = setting(False, OPTIONS["--any-detector"]["help"])
    # None: not given. Then it is that of the checkpoint, else the default that models/description.py has for it
    max_regions: Optional[int] = setting(None, OPTIONS["--max-regions"]["help"])
    regions_on_device: bool = setting(
        False,
        "keep the features of all images of a split on the device that computes, if they fit; batches then hold "
        "their places",
    )
    region_order: Optional[ChoiceEnum(list(ORDERS))] = setting(None, OPTIONS["--region-order"]["help"])
    max_source_positions: Optional[int] = setting(
        None, "longest source sentence in tokens, </s> symbols included (default: the checkpoint's, else 512)"
    )
    max_target_positions: Optional[int] = setting(
        None, "longest target sentence in tokens, </s> symbols included (default: the checkpoint's, else 512)"
    )
    upsample_primary: int = setting(1, "how often train is repeated where train1, train2, ... are joined to it")
    autocast: ChoiceEnum(["none", "bf16", "fp16"]) = setting(
        "none", "run forward and loss under torch.autocast, on CPU and GPU (training in fp16 needs --amp)"
    )
    no_tf32: bool = setting(False, "on a GPU, products of float32 in full precision, not in TF32 (slower)")
    compile: bool = setting(False, "train with PyTorch's compiler (the first updates take minutes, the others less)")
    compile_mode: ChoiceEnum(["default", "reduce-overhead", "max-autotune-no-cudagraphs", "max-autotune"]) = setting(
        "default", "mode of --compile; reduce-overhead and max-autotune replay CUDA graphs, on a GPU"
    )
    # fairseq keeps its loader workers over epochs, so set_epoch would not reach them and masks would repeat;
    # FairseqTask reads this field
    reuse_dataloader: bool = setting(False, "keep loader workers over epochs (masks repeat)")
    persistent_workers: bool = setting(False, "keep loader workers after their epoch")
    train_subset: str = II("dataset.train_subset")
    valid_subset: str = II("dataset.valid_subset")
    combine_valid_subsets: Optional[bool] = II("dataset.combine_valid_subsets")
    ignore_unused_valid_subsets: Optional[bool] = II("dataset.ignore_unused_valid_subsets")
    disable_validation: bool = II("dataset.disable_validation")
    dataset_impl: Optional[str] = II("dataset.dataset_impl")
    required_seq_len_multiple: int = II("dataset.required_seq_len_multiple")
    seed: int = II("common.seed")
    fixed_validation_seed: Optional[int] = II("dataset.fixed_validation_seed")
    amp: bool = II("common.amp")
    clip_norm: float = II("optimization.clip_norm")
    save_dir: str = II("checkpoint.save_dir")
    restore_file: str = II("checkpoint.restore_file")
    finetune_from_model: Optional[str] = II("checkpoint.finetune_from_model")
    no_save: bool = II("checkpoint.no_save")
    path: Optional[str] = II("common_eval.path")
