"""Imported by the process that forks: fills the caches of hydra's parser, which are empty in each new process."""

from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf

import vtlm_fairseq  # noqa: F401  (registers tasks and models)

line = ["data", "--task", "multimodal_translation", "--arch", "multimodal_transformer_tiny"]
convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), line))
