"""Ensembles of a text-only and a multimodal model, and alignments of both, through the command lines."""

import re

import pytest
import torch

from vtlm_fairseq.hub import MultimodalTransformer

BEAM = ("--beam", "3", "--max-len-b", "9")


def alignments(output: str) -> dict[int, str]:
    """``A-`` lines of fairseq-generate by line."""
    return {int(line): text for line, text in re.findall(r"^A-(\d+)\t(.*)$", output, re.M)}


def test_nmt_and_mmt_decode_together(run, corpus, nmt, mmt):
    """fairseq-generate and vtlm-translate say the same; probabilities are both models' mean, whoever is first."""
    decoded = {}
    for order in ((nmt, mmt), (mmt, nmt)):
        path = ":".join(map(str, order))
        decoded[order] = run.generate(corpus.data, path, *BEAM, regions=corpus.regions)
        translated = run.translate(path, *BEAM, "--regions", corpus.store("test"), "--preprocessed",
                                   stdin=corpus.stdin("test"))  # fmt: skip
        assert translated.output.splitlines()[-13:] == decoded[order].hypotheses()
    one, other = decoded.values()
    assert one.hypotheses() == other.hypotheses()
    alone = {path: run.generate(corpus.data, path, *BEAM, regions=regions).hypotheses()
             for path, regions in ((nmt, "none"), (mmt, corpus.regions))}  # fmt: skip
    assert one.hypotheses() not in alone.values()
    # the score of a hypothesis, from each model alone
    models = [
        MultimodalTransformer.from_pretrained(path, regions=regions, preprocessed=True, cpu=True)
        for path, regions in ((nmt, "none"), (mmt, str(corpus.store("test"))))
    ]
    for line in (1, 5, 12):
        hypothesis = models[0].encode_target(one.hypotheses()[line])
        source = torch.cat([torch.tensor([2]), models[0].encode(corpus.lines("test", "en")[line])])[None]
        net = {"src_tokens": source, "src_lengths": torch.tensor([source.size(1)])}
        net["prev_output_tokens"] = hypothesis.roll(1)[None]
        regions = models[1].line_regions([corpus.images("test")[line]])[0]
        image = {"features": torch.from_numpy(regions.features)[None], "boxes": torch.from_numpy(regions.boxes)[None]}
        image["region_padding_mask"] = torch.zeros(1, len(regions.labels), dtype=torch.bool)
        with torch.no_grad():
            rows = [
                model.models[0](**net, **given)[0].softmax(-1)[0]
                for model, given in zip(models, ({}, image), strict=True)
            ]
        chosen = (sum(rows) / 2)[range(len(hypothesis)), hypothesis].log2()
        assert one.scores()[line] == pytest.approx(float(chosen.mean()), abs=1e-3)


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_alignments_are_those_of_words(run, corpus, mmt, kind):
    """Against the attention of the last layer, heads averaged: no region, no symbol counts; the first word is 0."""
    decoded = run.generate(corpus.data, mmt, *BEAM, "--print-alignment", kind, regions=corpus.regions)
    found = alignments(decoded.output)
    model = MultimodalTransformer.from_pretrained(mmt, regions=str(corpus.store("test")), preprocessed=True, cpu=True)
    on_regions = 0
    for line, (text, image) in enumerate(zip(corpus.lines("test", "en"), corpus.images("test"), strict=True)):
        hypothesis = model.encode_target(decoded.hypotheses()[line])
        source = torch.cat([torch.tensor([2]), model.encode(text)])[None]
        regions = model.line_regions([image])[0]
        with torch.no_grad():
            _, extra = model.models[0](
                source,
                torch.tensor([source.size(1)]),
                hypothesis.roll(1)[None],
                features=torch.from_numpy(regions.features)[None],
                boxes=torch.from_numpy(regions.boxes)[None],
                region_padding_mask=torch.zeros(1, len(regions.labels), dtype=torch.bool),
                alignment_layer=1,
            )
        attention, words = extra["attn"][0][0], len(text.split())
        on_regions += int((attention.argmax(1) > words + 1).sum())
        if kind == "hard":
            best = attention[:-1, 1 : words + 1].argmax(1).tolist()
            assert found[line] == " ".join(f"{source}-{target}" for target, source in enumerate(best))
        else:
            rows = [[float(share) for share in row.split(",")] for row in found[line].split(" ")]
            assert torch.allclose(torch.tensor(rows), attention[:, 1 : words + 2], atol=1e-4)
    assert on_regions > 0


def test_alignments_of_an_ensemble_and_of_references(run, corpus, nmt, mmt):
    """Models with and without regions; and teacher-forced, where fairseq makes the alignments at another place."""
    lengths = [len(line.split()) for line in corpus.lines("test", "en")]
    for argv in ((f"{nmt}:{mmt}",), (mmt, "--score-reference")):
        decoded = run.generate(corpus.data, *argv, *BEAM, "--print-alignment", "hard", regions=corpus.regions)
        found = alignments(decoded.output)
        assert len(found) == 13
        pairs = {line: [tuple(map(int, pair.split("-"))) for pair in text.split()] for line, text in found.items()}
        assert all(0 <= source < lengths[line] for line, of in pairs.items() for source, _ in of)
        assert any(source == 0 for of in pairs.values() for source, _ in of)
