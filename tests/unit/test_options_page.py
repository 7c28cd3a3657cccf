"""docs/options.md is what the dataclasses of tasks, archs, criterion and optimizer say.

``PYTHONPATH=.:tests/support python tests/unit/test_options_page.py`` writes it.
"""

import dataclasses
from pathlib import Path

from fairseq.criterions import CRITERION_DATACLASS_REGISTRY
from fairseq.models import MODEL_DATACLASS_REGISTRY
from fairseq.tasks import TASK_DATACLASS_REGISTRY

import vtlm_fairseq
from vtlm_fairseq.models.description import DECISIONS, Kind

PAGE = Path(__file__).parents[2] / "docs" / "options.md"
HEAD = """# Options of tasks, archs and criterion

What fairseq's commands take beside [fairseq's own options](fairseq-options.md); `fairseq-train --help` stops before it
adds them. For hydra, `-` is `_`: `task.mask_prob=0.3`. Options of the `vtlm-*` commands: `--help`.

\\* A model that is loaded, resumed or fine-tuned keeps what it was trained with; this is the value where neither the
command nor a checkpoint says another ([design](dev/design.md#checkpoints-describe-themselves)).

Written by `PYTHONPATH=.:tests/support python tests/unit/test_options_page.py`; a test compares it.
"""


def rows(config: type, leave: frozenset[str]) -> list[str]:
    """A line of a table for each option of a dataclass that is not left out."""
    lines = []
    for field in dataclasses.fields(config):
        if field.name in leave or "help" not in field.metadata:
            continue
        decision, default = DECISIONS.get(field.name), field.default
        kept = decision is not None and decision.default is not None
        value = decision.default if kept else default
        plain = {True: "on", False: "off", None: "", "": ""}
        shown = plain[value] if value is None or isinstance(value, (bool, str)) and value in plain else f"`{value}`"
        if isinstance(value, str) and value.startswith("${"):
            shown = "of the command"
        star = " *" if kept and decision.kind is not Kind.IRRELEVANT else ""
        text = " ".join(str(field.metadata["help"]).split()).replace("|", "\\|").replace("<", "&lt;")
        lines.append(f"| `--{field.name.replace('_', '-')}` | {shown}{star} | {text} |")
    return lines


def fields(*configs: type) -> frozenset[str]:
    """Names of the options that all of some dataclasses have."""
    names = [{field.name for field in dataclasses.fields(config)} for config in configs]
    return frozenset(set.intersection(*names))


def page() -> str:
    """docs/options.md."""
    vtlm_fairseq.register()
    lm, mt = (TASK_DATACLASS_REGISTRY[name] for name in ("visual_translation_lm", "multimodal_translation"))
    encoder, both = (MODEL_DATACLASS_REGISTRY[name] for name in ("vtlm", "multimodal_transformer"))
    criterion = CRITERION_DATACLASS_REGISTRY["vtlm"]
    tables = {
        "Both tasks": rows(lm, fields(lm) - fields(lm, mt)),
        "`--task visual_translation_lm`": rows(lm, fields(lm, mt)),
        "`--task multimodal_translation`": rows(mt, fields(lm, mt)),
        "All archs": rows(encoder, fields(encoder) - fields(encoder, both) | fields(lm)),
        "`--arch vtlm*`": rows(encoder, fields(encoder, both) | fields(lm)),
        "`--arch multimodal_transformer*`": rows(both, fields(encoder, both)),
        "`--criterion vtlm`": rows(criterion, frozenset()),
    }
    parts = [HEAD]
    for title, lines in tables.items():
        if lines:
            parts.append("\n".join([f"## {title}", "", "| option | default | |", "| --- | --- | --- |", *lines, ""]))
    return "\n".join(parts)


def test_the_page_is_what_the_dataclasses_say():
    assert PAGE.read_text(encoding="utf-8") == page()
    assert page().count("\n| `--") > 50


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
