"""Imported by the process that forks: its children find parsed what hydra parses for each command, and fork too."""

import signal
from contextlib import suppress
from pathlib import Path

import composing  # noqa: F401
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from forks import forked

from vtlm_fairseq.text import binarise

if Path(binarise.__file__).is_relative_to(Path(__file__).parents[2]):  # not where the wheel is tested
    # python -P -m fairseq_cli.preprocess ..., whose start takes four seconds
    binarise.run_group = lambda command, env: forked(command[3], command[4:], env=env)

LINES = (
    (options.get_training_parser, "--task visual_translation_lm --arch vtlm_tiny --criterion vtlm"),
    (options.get_training_parser, "--task multimodal_translation --arch multimodal_transformer_tiny"),
    (options.get_generation_parser, "--task multimodal_translation"),
    (options.get_validation_parser, "--task visual_translation_lm"),
)

# our tasks take over signals, which each command must do for itself
handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
with suppress(Exception, SystemExit):  # a fault of the package's is for the commands to find
    for make, line in LINES:
        parser = make()
        convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, ["data", *line.split()]))
for number, handler in handlers.items():
    signal.signal(number, handler)
