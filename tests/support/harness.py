"""Real command lines on generated data, for the integration tests."""

import json
import os
import re
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from forks import Forks

ROOT = Path(__file__).resolve().parents[2]
USER_DIR = str(ROOT / "vtlm_fairseq")
# torch imports _dynamo, for three seconds, with the first optimizer
MODULES = ("torch._dynamo", "fairseq_cli.preprocess", "fairseq_cli.train", "fairseq_cli.hydra_train",
           "fairseq_cli.generate", "fairseq_cli.validate", "fairseq_cli.interactive", "vtlm_fairseq",
           "vtlm_fairseq.cli.translate", "vtlm_fairseq.cli.convert", "warm")  # fmt: skip


@dataclass
class Result:
    """What a command did: exit status, and standard output and error together."""

    status: int
    output: str

    @property
    def last_line(self) -> str:
        """The last line that is not empty."""
        lines = [line for line in self.output.splitlines() if line.strip()]
        return lines[-1] if lines else ""

    def hypotheses(self) -> list[str]:
        """``H-`` lines of fairseq-generate in corpus order."""
        return [text for _, _, text in self._lines("H")]

    def scores(self) -> list[float]:
        """Scores of the hypotheses in corpus order."""
        return [float(score) for _, score, _ in self._lines("H")]

    def ids(self) -> list[int]:
        """Line numbers of the hypotheses, sorted; one that is decoded twice is there twice."""
        return [line for line, _, _ in self._lines("H")]

    def references(self) -> list[str]:
        """``T-`` lines in corpus order."""
        found = re.findall(r"^T-(\d+)\t(.*)$", self.output, re.M)
        return [text for _, text in sorted((int(line), text) for line, text in found)]

    def _lines(self, kind: str) -> list[tuple[int, str, str]]:
        found = re.findall(rf"^{kind}-(\d+)\t(\S+)\t(.*)$", self.output, re.M)
        return sorted((int(line), score, text) for line, score, text in found)

    def json_lines(self, key: str) -> list[dict]:
        """Log records of ``--log-format json`` that hold a key."""
        records = [json.loads(m) for m in re.findall(r'(?:\| |:|- )(\{"\w+": .*\})$', self.output, re.M)]
        return [record for record in records if key in record]

    def updates(self) -> list[dict]:
        """Log records of the updates (``--log-interval 1``), numbers as numbers."""
        return [numbers(record) for record in self.json_lines("num_updates") if "update" in record]

    def validations(self, split: str = "valid") -> list[dict]:
        """Log records of the validations during training, without the split's name; numbers as numbers."""
        prefix = f"{split}_"
        return [
            numbers({name.removeprefix(prefix): value for name, value in record.items() if name.startswith(prefix)})
            for record in self.json_lines(f"{prefix}loss")
        ]

    def table(self) -> dict:
        """The table that a probe printed as JSON, whatever was logged around it."""
        return json.JSONDecoder().raw_decode(self.output, self.output.index('{\n  "title"'))[0]

    def rows(self, *keys: str) -> dict[tuple, dict]:
        """Rows of that table by the values of some columns."""
        return {tuple(row[key] for key in keys): row for row in self.table()["rows"]}

    def says(self, *parts: str) -> bool:
        """Whether a line of the output holds all of ``parts``."""
        return any(all(part in line for part in parts) for line in self.output.splitlines())

    def fault(self, *parts: str) -> str:
        """The one line of an error that the user made: last of the output, without a stack; holds ``parts``."""
        assert self.status != 0
        assert "Traceback" not in self.output, self.output[-4000:]
        assert self.last_line.startswith("error: "), self.output[-2000:]
        for part in parts:
            assert part in self.last_line, f"{part!r} is not in: {self.last_line}"
        return self.last_line


def numbers(record: dict) -> dict:
    """A log record whose values are numbers where they can be."""
    return {name: float(value) for name, value in record.items() if re.fullmatch(r"-?[\d.]+(e-?\d+)?", str(value))}


class CommandLines:
    """Runs fairseq's and our commands through one :class:`forks.Forks`, on the CPU also where there is a GPU.

    Args:
        folder: where commands run unless told otherwise.
        root: the folder that holds the package.
    """

    def __init__(self, folder: Path, root: Path = ROOT):
        self.folder = folder
        self.count = 0
        self.forks = Forks(MODULES, env={**environment(root), "CUDA_VISIBLE_DEVICES": ""})

    def __call__(self, module: str, *argv, ok: bool | None = True, **options) -> Result:
        """Run ``module``'s entry point, or a script by its path.

        Args:
            module: name of the module, or path of the script.
            argv: its arguments.
            ok: demand exit status 0, or if False another one; None demands nothing.
            options: ``cwd``, ``env``, ``stdin`` (text), ``timeout`` (seconds).
        """
        (result,) = self.together([(module, argv)], ok=ok, **options)
        return result

    def together(self, commands: Sequence[tuple[str, Sequence]], *, ok: bool | None = True, **options) -> list[Result]:
        """Run commands side by side, each (module, arguments)."""
        requests = [self.request(module, argv, **options) for module, argv in commands]
        self.forks.start(requests)
        results = []
        for request, status in zip(requests, self.forks.statuses(), strict=True):
            result = Result(status, Path(request["log"]).read_text(encoding="utf-8", errors="replace"))
            assert ok is None or (status == 0) == ok, (
                f"{request['module']} {' '.join(request['argv'])} ended with {status}:\n{result.output[-6000:]}"
            )
            results.append(result)
        return results

    def two_ranks(self, line: Sequence, module: str = "fairseq_cli.train", **options) -> list[Result]:
        """A training on two gloo ranks side by side; results by rank."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        line = [*line, *GLOO, "--distributed-init-method", f"tcp://127.0.0.1:{port}", "--distributed-no-spawn"]
        return self.together([(module, [*line, "--distributed-rank", rank]) for rank in (0, 1)], **options)

    def request(self, module: str, argv, *, cwd=None, env=None, stdin: str | None = None, timeout: int = 120) -> dict:
        """What :class:`forks.Forks` is asked for a command."""
        self.count += 1
        stdin_file = None
        if stdin is not None:
            stdin_file = str(self.folder / f"stdin{self.count}.txt")
            Path(stdin_file).write_text(stdin, encoding="utf-8")
        log = self.folder / f"log{self.count}.txt"
        log.touch()  # a test may read it before the command has begun
        return {"module": str(module), "argv": [str(a) for a in argv], "cwd": str(cwd or self.folder),
                "env": env or {}, "log": str(log), "stdin": stdin_file, "timeout": timeout}  # fmt: skip

    def close(self) -> None:
        """End the process that forks."""
        self.forks.close()

    def preprocess(self, *argv, **kwargs) -> Result:
        """fairseq-preprocess with our dictionary."""
        return self("fairseq_cli.preprocess", "--user-dir", USER_DIR, "--task", "visual_translation_lm",
                    "--joined-dictionary", *argv, **kwargs)  # fmt: skip

    def pretrain(self, data, save_dir, *argv, regions="none", arch="vtlm_tiny", **kwargs) -> Result:
        """fairseq-train of a vtlm model on the CPU."""
        return self("fairseq_cli.train", *pretraining(data, save_dir, *argv, regions=regions, arch=arch), **kwargs)

    def train(self, data, save_dir, *argv, regions="none", arch="multimodal_transformer_tiny", **kwargs) -> Result:
        """fairseq-train of a translation model on the CPU."""
        return self("fairseq_cli.train", *translation(data, save_dir, *argv, regions=regions, arch=arch), **kwargs)

    def validate(self, data, path, *argv, task="visual_translation_lm", **kwargs) -> Result:
        """fairseq-validate on the CPU."""
        return self("fairseq_cli.validate", data, "--user-dir", USER_DIR, "--task", task, "--path", path, "--cpu",
                    "--num-workers", "0", "--batch-size", "8", "--log-format", "json", *argv, **kwargs)  # fmt: skip

    def generate(self, data, path, *argv, regions="none", **kwargs) -> Result:
        """fairseq-generate on the CPU."""
        return self("fairseq_cli.generate", data, "--user-dir", USER_DIR, "--task", "multimodal_translation",
                    "--num-workers", "0", "--regions", regions, "--path", path, "--cpu", *argv, **kwargs)  # fmt: skip

    def interactive(self, data, path, *argv, regions="none", **kwargs) -> Result:
        """fairseq-interactive on the CPU; give ``stdin``."""
        return self("fairseq_cli.interactive", data, "--user-dir", USER_DIR, "--task", "multimodal_translation",
                    "--regions", regions, "--path", path, "--cpu", *argv, **kwargs)  # fmt: skip

    def translate(self, path, *argv, **kwargs) -> Result:
        """vtlm-translate on the CPU; give ``stdin``."""
        return self("vtlm_fairseq.cli.translate", "--path", path, "--cpu", *argv, **kwargs)

    def probe(self, *argv, **kwargs) -> Result:
        """vtlm-probe on the CPU."""
        return self("vtlm_fairseq.cli.probe", *argv, "--cpu", **kwargs)

    def convert(self, *argv, **kwargs) -> Result:
        """vtlm-convert."""
        return self("vtlm_fairseq.cli.convert", *argv, **kwargs)


# Without loader workers: the fork of one costs more than its batches. Tests of what they do give --num-workers.
TRAINING = ("--num-workers", "0", "--optimizer", "adam", "--lr", "1e-3", "--batch-size", "8", "--max-update", "3",
            "--cpu", "--log-format", "json", "--log-interval", "1", "--no-epoch-checkpoints")  # fmt: skip
GLOO = ("--distributed-world-size", "2", "--distributed-backend", "gloo", "--ddp-backend", "legacy_ddp")


def pretraining(data, save_dir, *argv, regions="none", arch="vtlm_tiny", user_dir=USER_DIR) -> list[str]:
    """Arguments of fairseq-train for a vtlm model on the CPU."""
    fixed = ["--user-dir", user_dir, "--task", "visual_translation_lm", "--arch", arch, "--criterion", "vtlm"]
    return [str(a) for a in (data, *fixed, "--regions", regions, "--save-dir", save_dir, *TRAINING, *argv)]


def translation(data, save_dir, *argv, regions="none", arch="multimodal_transformer_tiny") -> list[str]:
    """Arguments of fairseq-train for a translation model on the CPU."""
    fixed = ["--user-dir", USER_DIR, "--task", "multimodal_translation", "--arch", arch]
    fixed += ["--criterion", "label_smoothed_cross_entropy", "--regions", regions, "--save-dir", save_dir]
    return [str(a) for a in (data, *fixed, *TRAINING, *argv)]


def shell(*command, cwd, timeout: int = 120) -> Result:
    """Run a command in a process of its own, as a user does."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )
    return Result(done.returncode, done.stdout)


def environment(root: Path = ROOT) -> dict[str, str]:
    """The environment of commands: this checkout's package (or that in ``root``), one thread."""
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def write_lines(path: Path, lines) -> Path:
    """Write lines to a text file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path
