"""What a GPU is set for and what the log advises, where PyTorch says that there is one."""

import logging
from types import SimpleNamespace

import pytest
import torch

from vtlm_fairseq.precision import fast_options
from vtlm_fairseq.tasks.acceleration import length_multiple, say_speed, set_up_device


@pytest.fixture
def gpu(monkeypatch):
    """Whether it has bf16; PyTorch's settings are put back."""
    settings = torch.get_float32_matmul_precision(), torch.backends.cuda.cudnn_sdp_enabled()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    yield lambda bf16: monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: bf16)
    torch.set_float32_matmul_precision(settings[0])
    torch.backends.cuda.enable_cudnn_sdp(settings[1])


def config(**options):
    return SimpleNamespace(**{"no_tf32": False, "compile": False, "compile_mode": "default", "autocast": "none",
                              "required_seq_len_multiple": 1, **options})  # fmt: skip


def advice(caplog, cfg, *, optimizer="adam", workers=1, fp16=False):
    """What the line in the log says of precision, and advises."""
    whole = SimpleNamespace(
        common=SimpleNamespace(fp16=fp16),
        optimizer=SimpleNamespace(_name=optimizer),
        dataset=SimpleNamespace(num_workers=workers),
    )
    model = SimpleNamespace(parameters=lambda: iter([SimpleNamespace(device=torch.device("cuda"))]))
    caplog.set_level(logging.INFO)
    caplog.clear()
    say_speed(whole, cfg, model)
    said, _, hints = caplog.messages[-1].partition("; faster with ")
    return said.split(", ")[0], hints


def test_what_is_set_and_advised(gpu, caplog):
    gpu(True)
    set_up_device(config())
    assert (torch.get_float32_matmul_precision(), torch.backends.cuda.cudnn_sdp_enabled()) == ("high", False)
    everything = "--autocast bf16, --optimizer fused_adam, --num-workers 4, --compile"
    assert advice(caplog, config()) == ("cuda: TF32", everything)
    best = {"optimizer": "fused_adam", "workers": 4}
    assert advice(caplog, config(autocast="bf16", compile=True), **best) == ("cuda: bf16", "")
    assert advice(caplog, config(compile=True), fp16=True, **best) == ("cuda: float16", "")
    assert fast_options() == {"--optimizer": "fused_adam", "--num-workers": "4", "--autocast": "bf16"}
    assert fast_options(cpu=True) == {}
    gpu(False)  # an older one
    assert advice(caplog, config(compile=True), **best) == ("cuda: TF32", "")
    set_up_device(config(no_tf32=True))
    assert torch.get_float32_matmul_precision() == "highest"
    assert advice(caplog, config(compile=True), **best) == ("cuda: float32", "leave --no-tf32 out")
    assert fast_options() == {"--optimizer": "fused_adam", "--num-workers": "4"}


def test_lengths(gpu, monkeypatch):
    """On a GPU multiples of 8 and of what is asked for; on a CPU where it is compiled."""
    assert [length_multiple(config(required_seq_len_multiple=n)) for n in (1, 4, 12)] == [8, 8, 24]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert length_multiple(config(required_seq_len_multiple=3)) == 3 and length_multiple(config(compile=True)) == 8
