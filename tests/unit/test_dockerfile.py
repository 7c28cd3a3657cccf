"""The Dockerfile, which no test builds: what it copies, installs and starts is there."""

import configparser
import re
import shlex

from harness import ROOT

TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
LINES = [line.split(maxsplit=1) for line in TEXT.splitlines() if line and not line.startswith("#")]
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg", encoding="utf-8")


def given(instruction: str) -> list[str]:
    """What stands behind an instruction."""
    return [rest for name, rest in LINES if name == instruction]


def test_what_it_names():
    """Files of the checkout, before they are used; extras; a Python that the package takes; the quickstart's path."""
    copied = [name for rest in given("COPY") for name in rest.split()[:-1]]
    assert {"vtlm_fairseq", "setup.cfg", "constraints.txt", "examples"} <= set(copied)
    assert all((ROOT / name).exists() for name in copied)
    assert [name for name, _ in LINES].index("FROM") < [name for name, _ in LINES].index("COPY")
    assert TEXT.index("COPY constraints.txt") < TEXT.index("-c constraints.txt --index-url")
    (extras,) = re.findall(r"'\.\[(.*)\]'", TEXT)
    assert set(extras.split(",")) <= set(SETUP["options.extras_require"])
    assert f"Python :: {re.search(r'ARG PYTHON=(.*)', TEXT)[1]}" in SETUP["metadata"]["classifiers"]
    assert set(re.findall(r"\$\{(\w+)\}", TEXT)) <= {rest.split("=")[0] for rest in given("ARG")}
    for path in re.findall(r"/opt/vtlm-fairseq/(\S+)", TEXT):
        assert (ROOT / path).exists()
    for command in given("RUN"):
        shlex.split(command)  # quotes are closed
    (command,) = given("CMD")
    assert re.search(r'"([\w-]+)"', command)[1] in SETUP["options.entry_points"]["console_scripts"]


def test_readme_is_not_left_out_of_the_build():
    """Nothing that is copied is ignored."""
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert not {name for rest in given("COPY") for name in rest.split()[:-1]} & set(ignored)
