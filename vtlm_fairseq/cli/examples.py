"""What --help of every command ends with: examples, and the page that says more. A test runs them all.

They belong together: files have the names of docs/first-run.md.
"""

_TEST_SET = "--regions regions.h5 --gen-subset test"
_SYSTEM = f"data-bin --system MMT=mmt/checkpoint_best.pt {_TEST_SET}"
_M30K = "--raw task1/raw --image-splits task1/image_splits"

EXAMPLES: dict[str, tuple[str, ...]] = {
    "vtlm-regions": ("vtlm-regions info regions.h5",),
    "vtlm-regions info": ("vtlm-regions info regions.h5",),
    "vtlm-regions validate": ("vtlm-regions validate regions.h5 --images data-bin/train.images",),
    "vtlm-regions convert": (
        "vtlm-regions convert --npz raw/features --class-names raw/classes.txt --detector mine --out regions.h5",
    ),
    "vtlm-regions merge": ("vtlm-regions merge regions.h5 more.h5 --out all.h5",),
    "vtlm-regions show": ("vtlm-regions show regions.h5 test-0 --image photos/test-0.jpg --out look.png",),
    "vtlm-extract": ("vtlm-extract --images photos --detector litert-ssd --model ssd --out photos.h5",),
    "vtlm-prepare": (
        "vtlm-prepare captions --train raw/train --valid raw/valid -s en -t fr --vocab-size 200 --out captions",
    ),
    "vtlm-prepare captions": (
        "vtlm-prepare captions --train raw/train --valid raw/valid -s en -t fr --vocab-size 200 --out captions",
        "vtlm-prepare captions --train captions.tsv --columns image=1,en=2,fr=3 --valid-size 20 -t fr "
        "--regions regions.h5 --vocab-size 200 --out more",
    ),
    "vtlm-prepare multi30k": (f"vtlm-prepare multi30k {_M30K} --vocab-size 10000 --out m30k",),
    "vtlm-prepare translate": (
        "vtlm-prepare translate --model nmt --checkpoint checkpoint_best.pt -t fr --input raw/test.en --out new.fr",
    ),
    "vtlm-prepare contrastive": ("vtlm-prepare contrastive data-bin --regions regions.h5 --least 1 --out contrastive",),
    "vtlm-prepare nouns": ("vtlm-prepare nouns data-bin --regions regions.h5",),
    "vtlm-oracle": (f"vtlm-oracle --entities flickr30k_entities {_M30K} --splits train,val --out oracle",),
    "vtlm-translate": (
        "vtlm-translate --path mmt --regions regions.h5 new.tsv",
        "vtlm-translate --path nmt raw/test.en",
    ),
    "vtlm-score": (
        "vtlm-score mmt.txt --baseline nmt.txt --ref data-bin/references/test.fr --raw-ref raw/test.fr "
        "--text-json data-bin",
    ),
    "vtlm-probe": (f"vtlm-probe incongruent {_SYSTEM}",),
    "vtlm-probe last-word": (
        "vtlm-probe last-word data-bin --system VTLM=vtlm/checkpoint_best.pt --regions regions.h5 --region-order given "
        "--region-order shuffle",
    ),
    "vtlm-probe masked-noun": (
        "vtlm-probe masked-noun data-bin --system VTLM=vtlm/checkpoint_best.pt --regions regions.h5",
    ),
    "vtlm-probe mrc": ("vtlm-probe mrc data-bin --system VTLM=vtlm/checkpoint_best.pt --regions regions.h5",),
    "vtlm-probe entity": (f"vtlm-probe entity {_SYSTEM} --entities flickr30k_entities",),
    "vtlm-probe attention": (f"vtlm-probe attention {_SYSTEM} --plot attention.png",),
    "vtlm-probe pointing": (f"vtlm-probe pointing {_SYSTEM}",),
    "vtlm-probe contrastive": (
        "vtlm-probe contrastive --system MMT=mmt/checkpoint_best.pt --regions regions.h5 --src contrastive/src.en "
        "--correct contrastive/correct.fr --incorrect contrastive/incorrect.fr --images contrastive/images "
        "--preprocessed",
    ),
    "vtlm-probe incongruent": (f"vtlm-probe incongruent {_SYSTEM}",),
    "vtlm-report": (f"vtlm-report data-bin --path mmt {_TEST_SET} --lines 1-8 --out report.html",),
    "vtlm-plot": ("vtlm-plot MMT=mmt.log NMT=nmt.log --out curves.png",),
    "vtlm-convert": ("vtlm-convert latest mmt",),
    "vtlm-convert average": (
        "vtlm-convert average mmt/checkpoint_best.pt mmt/checkpoint_last.pt --out mmt/average.pt",
    ),
    "vtlm-convert latest": ("vtlm-convert latest mmt",),
    "vtlm-convert checkpoint": ("vtlm-convert checkpoint pretrained.pth --out converted/vtlm.pt",),
    "vtlm-convert check": ("vtlm-convert check converted/vtlm.pt --reference pretrain_forward.npz",),
    "vtlm-convert card": ("vtlm-convert card mmt --out mmt/README.md",),
}
"""Command lines by command and sub-command."""

PAGES = {
    "vtlm-regions": "regions.md",
    "vtlm-extract": "extraction.md",
    "vtlm-prepare": "data.md",
    "vtlm-prepare contrastive": "probes.md",
    "vtlm-oracle": "../examples/multi30k/README.md",
    "vtlm-translate": "first-run.md",
    "vtlm-score": "evaluation.md",
    "vtlm-probe": "probes.md",
    "vtlm-report": "report.md",
    "vtlm-plot": "training.md",
    "vtlm-convert": "checkpoints.md",
}
"""Page of the folder docs, by command and sub-command, of which the longest that fits counts."""
