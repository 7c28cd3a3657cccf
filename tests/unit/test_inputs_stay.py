"""No command writes its page, table or model over a file that it reads."""

import pytest

from stores import ends_with
from vtlm_fairseq.cli import convert, probe, regions, report


@pytest.mark.parametrize(
    ("main", "argv"),
    [
        (report.main, "data --path mmt --regions r.h5 --out r.h5"),
        (report.main, "data --path mmt --regions stores --out stores/test.h5"),
        (report.main, "data --path mmt --out mmt/checkpoint_best.pt"),
        (report.main, "data --path mmt --out data/train.en-de.en.bin"),
        (convert.main, "card mmt --out mmt/checkpoint_last.pt"),
        (convert.main, "card mmt/checkpoint_best.pt --out link"),
        (convert.main, "card mmt --scores s.json --out s.json"),
        (convert.main, "card mmt --run s.json --out s.json"),
        (convert.main, "checkpoint old.pth --out old.pth"),
        (convert.main, "average mmt/checkpoint_best.pt mmt/checkpoint_last.pt --out mmt/checkpoint_last.pt"),
        (regions.main, "show r.h5 7 --image photo.png --out photo.png --overwrite"),
        (regions.main, "merge r.h5 stores/test.h5 --out link.h5 --overwrite"),
        (convert.main, "check mmt/checkpoint_best.pt --reference f.npz --dump f.npz"),
        (probe.main, "last-word data --system VTLM=mmt --regions r.h5 --out mmt/checkpoint_best.pt"),
        (probe.main, "last-word data --system VTLM=mmt --regions r.h5 --out r.h5"),
    ],
)
def test_an_input_is_refused_as_output(main, argv, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = (
        "r.h5 stores/test.h5 mmt/checkpoint_best.pt mmt/checkpoint_last.pt data/train.en-de.en.bin s.json old.pth f.npz"
        " photo.png"
    )
    for name in names.split():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "link").hardlink_to(tmp_path / "mmt" / "checkpoint_best.pt")
    (tmp_path / "link.h5").symlink_to("r.h5")
    assert "is a file of this command already" in ends_with(main, argv.split())
    assert all((tmp_path / name).read_text() == name for name in names.split())
