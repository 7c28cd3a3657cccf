#!/usr/bin/env bash
# The quickstart: data, pre-training, fine-tuning, decoding, one table. The README beside this file walks through it.
#
#   bash examples/quickstart/run.sh [OPTIONS]
#
#   --out DIR     folder for everything (default: quickstart-out); a second call goes on where the first one stopped
#   --seed N      of data and training (default: 1)
#   --probes      also pre-train a text-only TLM, and probe all models with vtlm-probe
#   --cpu         leave a GPU alone; where PyTorch has to be installed, take its small CPU build
#   --size tiny   two minutes, learns nothing, tests the commands
#   --show        print the commands and run nothing
#
# Uses the active virtual environment if it fits, else, in a checkout, makes .venv there.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/steps.sh" # options, environment and folder; `step RESULT TITLE COMMAND...` runs a command unless RESULT is there

step data "make captions, and scenes as region stores" \
    python "$here/make_data.py" --out data --seed "$seed" "${few[@]}"
step regions.txt "look at the regions of the test split" vtlm-regions info data/regions/test.h5
shown regions.txt

user=(--user-dir "$(python -m vtlm_fairseq)")
step data-bin/text.json "binarise the text" \
    fairseq-preprocess "${user[@]}" --task visual_translation_lm -s en -t de --joined-dictionary \
    --trainpref data/train --validpref data/valid --testpref data/test,data/test_swapped --destdir data-bin
if [ -z "$show" ] && [ ! -e data-bin/text.json ]; then
    for file in data-bin/test1.*; do # fairseq-preprocess's name of the second test set
        [ ! -e "$file" ] || mv "$file" "${file/test1/test_swapped}"
    done
    cp data/*.images data-bin/
    python "$here/make_data.py" --text-json data-bin # so that vtlm-translate takes text as it is
fi

regions=(--regions data/regions)
fast=() # options that use a GPU
[ -n "${cpu[*]}" ] || read -ra fast <<<"$(python -m vtlm_fairseq --fast)"
train=(
    "${user[@]}" --seed "$seed" "${cpu[@]}" --distributed-world-size 1 --num-workers 0 --log-format json
    --encoder-embed-dim 128 --encoder-ffn-embed-dim 512 --encoder-layers 3 --encoder-attention-heads 4
    --optimizer adam --adam-betas '(0.9,0.98)' --lr-scheduler polynomial_decay
    --save-interval 100000 --validate-interval 100000 --keep-interval-updates 1 # saves by updates, not by epochs
    "${fast[@]}"
)
# Half of the words are masked (the paper: 15 %). Where both nouns of a pair are, only the scene tells them, and a
# training as short as this one has to meet that often to learn to look.
pretrain=(
    --task visual_translation_lm --arch vtlm --criterion vtlm --dropout 0 --mask-prob 0.5 --batch-size 32
    --lr 2e-3 --warmup-updates 200 --total-num-update 2000 --max-update 2000 --save-interval-updates 400 --log-interval 40
)
# The paper's best variant: region labels are predicted, regions are not masked.
step "$vtlm" "pre-train VTLM" fairseq-train data-bin "${train[@]}" "${pretrain[@]}" --save-dir vtlm \
    "${regions[@]}" --region-layernorm --region-leave-unmasked-prob 1 --region-random-prob 0 "${small[@]}"

tune=(
    --task multimodal_translation --arch multimodal_transformer --pretrained "$vtlm" --batch-size 64
    --criterion label_smoothed_cross_entropy --label-smoothing 0.1 --dropout 0.1
)
step "$mmt" "fine-tune MMT, with scenes" fairseq-train data-bin "${train[@]}" "${tune[@]}" --save-dir mmt \
    "${regions[@]}" --region-layernorm --lr 3e-3 --warmup-updates 20 --total-num-update 200 --max-update 200 \
    --save-interval-updates 40 --log-interval 4 "${small[@]}"
step "$nmt" "fine-tune NMT, without" fairseq-train data-bin "${train[@]}" "${tune[@]}" --save-dir nmt \
    --regions none --lr 2e-3 --warmup-updates 15 --total-num-update 150 --max-update 150 \
    --save-interval-updates 30 --log-interval 3 "${small[@]}"

decode=(
    "${user[@]}" --seed "$seed" "${cpu[@]}" --task multimodal_translation --beam 8 --max-len-b 30 --batch-size 128 --log-format none
)
step hyp/mmt.txt "decode with MMT" \
    fairseq-generate data-bin "${decode[@]}" --path "$mmt" --gen-subset test "${regions[@]}"
step hyp/mmt_swapped.txt "decode with MMT, each sentence with the scene of its other sense" \
    fairseq-generate data-bin "${decode[@]}" --path "$mmt" --gen-subset test_swapped "${regions[@]}"
step hyp/mmt_shuffled.txt "decode with MMT, each sentence with another image's scene" \
    fairseq-generate data-bin "${decode[@]}" --path "$mmt" --gen-subset test "${regions[@]}" --region-order shuffle
step hyp/nmt.txt "decode with NMT" \
    fairseq-generate data-bin "${decode[@]}" --path "$nmt" --gen-subset test --regions none
step scores.txt "BLEU, and whether the difference can be chance" \
    vtlm-score hyp/mmt.txt --baseline hyp/nmt.txt --ref data/test.de --steps none

if [ -n "$probes" ]; then
    step "$tlm" "pre-train TLM, without scenes" fairseq-train data-bin "${train[@]}" "${pretrain[@]}" --save-dir tlm \
        --regions none "${small[@]}"
    step probes/last-word.txt "the last word masked in both languages, where it is an ambiguous noun" \
        vtlm-probe last-word data-bin --system TLM="$tlm" --system VTLM="$vtlm" "${regions[@]}" --subsets test \
        --lines data/test_last.lines --region-order given --region-order shuffle --batch-size 128 "${cpu[@]}"
    systems=(--system MMT="$mmt" --system NMT="$nmt" --batch-size 128 "${cpu[@]}")
    step probes/contrastive.txt "which of two translations is more probable" \
        vtlm-probe contrastive "${systems[@]}" --src data/contrastive/src.en --correct data/contrastive/correct.de \
        --incorrect data/contrastive/incorrect.de --images data/contrastive/img.order --regions data/regions/test.h5
    step probes/incongruent.txt "BLEU with given, shuffled and hidden scenes" \
        vtlm-probe incongruent data-bin "${systems[@]}" "${regions[@]}" --repeats 1 --max-len-b 30
    step probes/attention.txt "cross-attention to regions" \
        vtlm-probe attention data-bin --system MMT="$mmt" --batch-size 128 "${cpu[@]}" "${regions[@]}"
    step probes/pointing.txt "ambiguous nouns that attend most to the region that they name" \
        vtlm-probe pointing data-bin --system MMT="$mmt" --batch-size 128 "${cpu[@]}" "${regions[@]}" \
        --class-lexicon data/ambiguous.tsv
    shown probes/last-word.txt probes/contrastive.txt probes/incongruent.txt probes/attention.txt \
        probes/pointing.txt
fi
shown scores.txt
[ -n "$show" ] || python "$here/score.py" --size "$size"
