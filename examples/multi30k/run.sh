#!/usr/bin/env bash
# Multi30k with oracle regions: NMT and MMT from scratch, VTLM pre-training, MMT fine-tuned from it,
# test_2016_flickr decoded with beam 8 and scored. Finished stages are skipped; cut-off training resumes.
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: run.sh --raw DIR --image-splits DIR --entities DIR|TGZ --out DIR [options]

  --raw DIR           Multi30k task 1 as published: train.en, val.de, test_2016_flickr.en, ... (plain or .gz)
  --image-splits DIR  image_splits of the same repository: train.txt, val.txt, test_2016_flickr.txt, ...
  --entities PATH     Flickr30k Entities: folder or .tgz with Annotations/ and Sentences/
  --out DIR           everything is written here
  --size NAME         small (default): d 128, 4 layers; paper: the paper's size and settings;
                      tiny: 3 updates a stage, to try the path
  --stages LIST       comma-separated: prepare,regions,nmt,mmt,vtlm,vtlm_mmt,decode (default: all)
  --precision NAME    bf16 (default for small), fp32: see --autocast
  --seed N            default 1
USAGE
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
raw= splits= entities= out= size=small seed=1 precision=
stages=prepare,regions,nmt,mmt,vtlm,vtlm_mmt,decode
while [ $# -gt 0 ]; do
  case $1 in
    --raw) raw=$2 ;; --image-splits) splits=$2 ;; --entities) entities=$2 ;; --out) out=$2 ;;
    --size) size=$2 ;; --stages) stages=$2 ;; --precision) precision=$2 ;; --seed) seed=$2 ;;
    -h | --help) usage; exit 0 ;;
    *) echo "error: unknown option $1; see --help" >&2; exit 2 ;;
  esac
  shift 2
done
[ -n "$out" ] || { echo "error: --out is missing; see --help" >&2; exit 2; }
mkdir -p "$out"
out=$(cd "$out" && pwd)
python=${PYTHON:-python}
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
user_dir=$root/vtlm_fairseq
bin=$out/data-bin
regions=$out/regions

adam=(--optimizer adam --clip-norm 1.0 --seed "$seed")
case $size in
  small)
    vocab=10000
    model=(--encoder-embed-dim 128 --encoder-ffn-embed-dim 256 --encoder-layers 4 --encoder-attention-heads 4 --dropout 0.3)
    adam+=(--adam-betas '(0.9, 0.98)' --lr-scheduler polynomial_decay)
    batch=(--batch-size 224)
    scratch=(--lr 5e-3 --warmup-updates 300 --total-num-update 1560 --max-update 1560)
    pretrain=(--lr 2e-3 --warmup-updates 300 --total-num-update 1300 --max-update 1300)
    finetune=(--lr 5e-3 --warmup-updates 200 --total-num-update 1040 --max-update 1040)
    smoothing=0.1 precision=${precision:-bf16}
    ;;
  paper)
    # section 2.3 and 2.4; the corpus is Multi30k, so this is the paper's row "VTLM: pre-train and fine-tune on Multi30k"
    vocab=10000
    model=()
    adam=(--optimizer adam --clip-norm 5.0 --seed "$seed")
    batch=(--batch-size 64)
    scratch=(--dropout 0.4 --adam-betas '(0.9, 0.98)' --lr 1e-4 --lr-scheduler inverse_sqrt --warmup-init-lr 1e-7
      --warmup-updates 4000 --max-update 60000 --patience 20)
    pretrain=(--adam-betas '(0.9, 0.999)' --lr 1e-4 --lr-scheduler fixed --max-update 1500000)
    finetune=(--adam-betas '(0.9, 0.999)' --lr 1e-5 --lr-scheduler fixed --max-update 60000 --patience 20)
    smoothing=0 precision=${precision:-fp32}
    ;;
  tiny)
    vocab=1000
    model=(--encoder-embed-dim 16 --encoder-ffn-embed-dim 32 --encoder-layers 2 --encoder-attention-heads 2)
    batch=(--batch-size 64)
    scratch=(--lr 1e-3 --max-update 3) pretrain=(--lr 1e-3 --max-update 3) finetune=(--lr 1e-3 --max-update 3)
    smoothing=0.1 precision=${precision:-fp32}
    ;;
  *) echo "error: --size $size: small, paper or tiny" >&2; exit 2 ;;
esac
case $precision in
  bf16) cast=(--autocast bf16) ;; fp32) cast=() ;;
  *) echo "error: --precision $precision: bf16 or fp32" >&2; exit 2 ;;
esac

log() { printf '%s  %s\n' "$(date +%H:%M:%S)" "$*"; }
wanted() { case ",$stages," in *",$1,"*) return 0 ;; *) return 1 ;; esac; }

# stage NAME COMMAND...: run once; output to NAME.log, its end shown on failure
stage() {
  local name=$1
  shift
  if ! wanted "${name%%.*}" || [ -e "$out/$name.done" ]; then return 0; fi
  log "$name"
  if ! "$@" >>"$out/$name.log" 2>&1; then
    tail -n 20 "$out/$name.log" >&2
    echo "error: stage $name failed; its whole output is in $out/$name.log" >&2
    exit 1
  fi
  touch "$out/$name.done"
}

common=(--user-dir "$user_dir" --skip-invalid-size-inputs-valid-test --num-workers 0 --log-format json --log-interval 20
  --no-epoch-checkpoints)
[ -n "${CUDA_VISIBLE_DEVICES+x}" ] || command -v nvidia-smi >/dev/null || common+=(--cpu)

train() { # save-dir options... : resumes from the newest whole checkpoint, if there is one
  local save=$1 restore=() last
  shift
  if last=$("$python" -m vtlm_fairseq.cli.convert latest "$save"); then
    restore=(--restore-file "$last")
  fi
  "$python" -m fairseq_cli.train "$bin" "${common[@]}" ${cast[@]+"${cast[@]}"} "${adam[@]}" "${batch[@]}" ${model[@]+"${model[@]}"} \
    --save-dir "$save" ${restore[@]+"${restore[@]}"} "$@"
}
translation=(--task multimodal_translation --arch multimodal_transformer --criterion label_smoothed_cross_entropy
  --label-smoothing "$smoothing" --best-checkpoint-metric nll_loss)

stage prepare "$python" "$root/preprocess/prepare_multi30k.py" --raw "$raw" --image-splits "$splits" --out "$bin" \
  --vocab-size "$vocab"
stage regions "$python" "$root/preprocess/entities_regions.py" --entities "$entities" --raw "$raw" \
  --image-splits "$splits" --splits train,val,test_2016_flickr --out "$regions"
stage nmt train "$out/nmt" "${translation[@]}" "${scratch[@]}" --regions none
stage mmt train "$out/mmt" "${translation[@]}" "${scratch[@]}" --regions "$regions"
stage vtlm train "$out/vtlm" --task visual_translation_lm --arch vtlm --criterion vtlm "${pretrain[@]}" \
  --regions "$regions" --best-checkpoint-metric mlm_accuracy --maximize-best-checkpoint-metric
stage vtlm_mmt train "$out/vtlm_mmt" "${translation[@]}" "${finetune[@]}" --regions "$regions" \
  --pretrained "$out/vtlm/checkpoint_best.pt"

decode() { # system regions
  "$python" -m fairseq_cli.generate "$bin" --user-dir "$user_dir" --task multimodal_translation --regions "$2" \
    --path "$out/$1/checkpoint_best.pt" --beam 8 --batch-size 64 --gen-subset test_2016_flickr \
    --max-len-a 1.5 --max-len-b 10 --post-process sentencepiece >"$out/$1.generate.txt"
  grep '^H-' "$out/$1.generate.txt" | sort -t- -k2 -n | cut -f3 >"$out/$1.hyp.de"
  "$python" -m sacrebleu "$bin/references/test_2016_flickr.de" -i "$out/$1.hyp.de" -m bleu --tokenize none \
    --force >"$out/$1.bleu.json"
}
for system in nmt mmt vtlm_mmt; do
  [ -e "$out/$system.done" ] || continue
  case $system in nmt) store=none ;; *) store=$regions ;; esac
  stage "decode.$system" decode "$system" "$store"
done

if wanted decode; then
  echo "system      validation perplexity   BLEU test_2016_flickr (oracle regions; tokenised, lower-cased)"
  for system in nmt mmt vtlm_mmt; do
    [ -e "$out/$system.bleu.json" ] || continue
    "$python" - "$out" "$system" <<'PYTHON'
import json, re, sys
out, system = sys.argv[1:]
log = open(f"{out}/{system}.log", encoding="utf-8").read()
best = min(float(x) for x in re.findall(r'"valid_ppl": "([0-9.]+)"', log))
bleu = json.load(open(f"{out}/{system}.bleu.json", encoding="utf-8"))
print(f"{system:10s}  {best:21.2f}   {bleu['score']:.1f}  {bleu['signature']}")
PYTHON
  done
fi
