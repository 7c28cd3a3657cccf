"""Imported by the process that forks: fills the caches of hydra's parser, which are empty in each new process.

With a task of fairseq's: ours take over signals, which each command must do for itself.
"""

from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf

line = ["data", "--task", "translation", "--arch", "transformer_tiny"]
convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), line))
