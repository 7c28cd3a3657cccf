"""Real command lines on generated data, for the integration tests."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
USER_DIR = str(ROOT / "vtlm_fairseq")


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
        return [text for _, text in sorted(self._lines("H"))]

    def scores(self) -> list[float]:
        """Scores of the hypotheses in corpus order."""
        found = re.findall(r"^H-(\d+)\t(\S+)\t", self.output, re.M)
        return [float(score) for _, score in sorted((int(i), s) for i, s in found)]

    def _lines(self, kind: str) -> list[tuple[int, str]]:
        found = re.findall(rf"^{kind}-(\d+)\t\S+\t(.*)$", self.output, re.M)
        return [(int(i), text) for i, text in found]

    def json_lines(self, key: str) -> list[dict]:
        """Log records of ``--log-format json`` that hold a key."""
        records = [json.loads(m) for m in re.findall(r"(?:\| |:)(\{.*\})$", self.output, re.M)]
        return [record for record in records if key in record]


class CommandLines:
    """Runs fairseq's and our commands through one :mod:`cli_server`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.count = 0
        self.server = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "cli_server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        )

    def __call__(self, module: str, *argv, ok: bool = True, cwd=None, env=None, stdin: str | None = None) -> Result:
        """Run ``module`` with arguments; ``ok`` demands exit status 0 (or, if False, another one)."""
        self.count += 1
        log = self.folder / f"log{self.count}.txt"
        stdin_file = None
        if stdin is not None:
            stdin_file = str(self.folder / f"stdin{self.count}.txt")
            Path(stdin_file).write_text(stdin, encoding="utf-8")
        request = {"module": module, "argv": [str(a) for a in argv], "cwd": str(cwd or self.folder),
                   "env": env or {}, "log": str(log), "stdin": stdin_file}  # fmt: skip
        print(json.dumps(request), file=self.server.stdin, flush=True)
        status = json.loads(self.server.stdout.readline())
        result = Result(status, log.read_text(encoding="utf-8", errors="replace"))
        assert (status == 0) == ok, f"{module} {argv} ended with {status}:\n{result.output[-6000:]}"
        return result

    def close(self) -> None:
        """End the server."""
        self.server.stdin.close()
        self.server.wait()

    def preprocess(self, *argv, **kwargs) -> Result:
        """fairseq-preprocess with our dictionary."""
        return self("fairseq_cli.preprocess", "--user-dir", USER_DIR, "--task", "visual_translation_lm",
                    "--joined-dictionary", *argv, **kwargs)  # fmt: skip

    def pretrain(self, data, save_dir, *argv, regions="none", arch="vtlm_tiny", **kwargs) -> Result:
        """fairseq-train of a vtlm model on the CPU."""
        return self("fairseq_cli.train", data, "--user-dir", USER_DIR, "--task", "visual_translation_lm",
                    "--arch", arch, "--criterion", "vtlm", "--regions", regions, "--save-dir", save_dir,
                    *TRAINING, *argv, **kwargs)  # fmt: skip

    def train(self, data, save_dir, *argv, regions="none", arch="multimodal_transformer_tiny", **kwargs) -> Result:
        """fairseq-train of a translation model on the CPU."""
        return self("fairseq_cli.train", data, "--user-dir", USER_DIR, "--task", "multimodal_translation",
                    "--arch", arch, "--criterion", "label_smoothed_cross_entropy", "--regions", regions,
                    "--save-dir", save_dir, *TRAINING, *argv, **kwargs)  # fmt: skip

    def generate(self, data, path, *argv, regions="none", **kwargs) -> Result:
        """fairseq-generate on the CPU."""
        return self("fairseq_cli.generate", data, "--user-dir", USER_DIR, "--task", "multimodal_translation",
                    "--regions", regions, "--path", path, "--cpu", *argv, **kwargs)  # fmt: skip


TRAINING = ("--optimizer", "adam", "--lr", "1e-3", "--batch-size", "8", "--max-update", "3", "--cpu",
            "--log-format", "json", "--log-interval", "1", "--no-epoch-checkpoints")  # fmt: skip


def write_lines(path: Path, lines) -> Path:
    """Write lines to a text file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path
