# For run.sh: its options, the environment, the folder, and `step`, which runs a command once. To be sourced, not run.

fail() {
    echo "error: $*" >&2
    exit 1
}

# -- options -----------------------------------------------------------------------------------------------------------
out=quickstart-out seed=1 size=full probes="" show="" cpu=()
while [ $# -gt 0 ]; do
    case "$1" in
        --out | --seed | --size)
            [ $# -gt 1 ] || fail "$1: give a value"
            declare "${1#--}=$2"
            shift
            ;;
        --probes) probes=1 ;;
        --cpu) cpu=(--cpu) ;;
        --show) show=1 ;;
        -h | --help)
            sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
            exit
            ;;
        *) fail "$1: no such option; see --help" ;;
    esac
    shift
done
[[ $seed =~ ^[0-9]+$ ]] || fail "--seed $seed: give a number from 0"
# the checkpoints of the last updates: a training whose last one is there has ended
vtlm=vtlm/checkpoint_8_2000.pt tlm=tlm/checkpoint_8_2000.pt mmt=mmt/checkpoint_2_200.pt nmt=nmt/checkpoint_2_150.pt
few=() small=()
case "$size" in
    full) ;;
    tiny)
        vtlm=vtlm/checkpoint_1_6.pt tlm=tlm/checkpoint_1_6.pt mmt=mmt/checkpoint_1_6.pt nmt=nmt/checkpoint_1_6.pt
        few=(--train-size 270 --valid-size 9 --test-size 18)
        small=(--encoder-embed-dim 16 --encoder-ffn-embed-dim 64 --encoder-layers 1 --batch-size 16 --warmup-updates 0
            --total-num-update 6 --max-update 6 --save-interval-updates 2 --log-interval 1)
        ;;
    *) fail "--size $size: full or tiny" ;;
esac

# -- environment -------------------------------------------------------------------------------------------------------
# one thread: models as small as these gain nothing from a second, and lose much when its core is busy
export PYTHONUTF8=1 OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-2}"
if [ -z "$show" ] && [ -e "$here/../../scripts/venv.sh" ]; then
    # shellcheck source=../../scripts/venv.sh
    source "$here/../../scripts/venv.sh"
    vtlm_activate_venv "${cpu[@]}" ""
fi
for name in convert regions score probe; do
    if ! command -v "vtlm-$name" >/dev/null; then # a checkout that is not installed
        eval "vtlm-$name() { exec python -m vtlm_fairseq.cli.$name \"\$@\"; }"
    fi
done

# -- folder ------------------------------------------------------------------------------------------------------------
if [ -z "$show" ]; then
    if [ -d "$out" ] && [ ! -e "$out/.lock" ] && [ -n "$(ls -A "$out")" ]; then
        fail "--out $out holds files of something else; name a new or an empty folder"
    fi
    mkdir -p "$out/logs" "$out/hyp" "$out/probes" || fail "--out $out: cannot be made; name another folder"
    cd "$out"
    exec 9>>.lock # commands inherit it: none works on unseen
    flock -n 9 || fail "$out: another run is at work there; wait for it or choose another --out"
    [ -e made-with ] || echo "--seed $seed --size $size" >made-with
    [ "$(cat made-with)" = "--seed $seed --size $size" ] ||
        fail "$out was made with $(cat made-with); give these again, or another --out"
    echo "Quickstart in $PWD"
fi

# -- steps -------------------------------------------------------------------------------------------------------------
number=0 steps=$((probes ? 17 : 11)) child=""

# A training saves at SIGTERM and ends; other commands leave no part of a result.
stop() {
    [ -z "$child" ] || { kill "$child" && wait "$child"; } 2>/dev/null || true
    echo
    fail "stopped; the same command goes on with this step"
}
trap stop INT TERM HUP

# step RESULT TITLE COMMAND...: show the command and run it, its output in logs/, unless RESULT is there.
# A RESULT that ends in .txt is the output itself.
step() {
    local result="$1" title="$2" log
    shift 2
    number=$((number + 1))
    case "$result" in
        *.txt) log="logs/$(basename "$result" .txt).log" ;;
        *) log="logs/${result%%/*}.log" ;;
    esac
    if [ -n "$show" ]; then
        printf '%q ' "$@"
        echo
        return
    fi
    printf '\n[%d/%d] %s\n' "$number" "$steps" "$title"
    if [ -e "$result" ]; then
        echo "    $result is there"
        return
    fi
    { printf '$' && printf ' %q' "$@" && echo; } | fold -s -w 116 | sed '$!s/$/\\/; 2,$s/^/    /'
    [ "$1" != fairseq-train ] || mend "${result%/*}"
    SECONDS=0
    "$@" >"$log" 2>&1 </dev/null &
    child=$!
    watch "$log" "$@"
    if ! wait "$child"; then
        tail -n 20 "$log"
        fail "the step failed; above are the last lines of $out/$log; the same command tries it again"
    fi
    child=""
    [ "${result%.txt}" = "$result" ] || mv "$log" "$result"
    echo "    done in $SECONDS seconds"
}

# watch LOG COMMAND...: wait for the end of $child; on a terminal say how far a training is, and the seconds left.
watch() {
    local log="$1" last now first="" since
    last="$(printf '%s\n' "$@" | sed -n '/^--max-update$/{n;p}' | tail -n 1)"
    while kill -0 "$child" 2>/dev/null; do
        sleep 0.5
        { [ -t 1 ] && [ -n "$last" ]; } || continue
        now="$(tail -c 4000 "$log" | grep -o '"num_updates": "[0-9]*' | tail -n 1 | tr -cd 0-9)" || continue
        [ -n "$first" ] || first="$now" since="$SECONDS"
        [ "$now" -eq "$first" ] || printf '\r\033[K    update %d of %d, %d seconds left\r' "$now" "$last" \
            $(((SECONDS - since) * (last - now) / (now - first)))
    done
}

# mend FOLDER: a kill while fairseq copies checkpoint_last.pt leaves a part of it; the newest whole checkpoint takes its place.
mend() {
    local newest
    [ -e "$1/checkpoint_last.pt" ] || return 0
    newest="$(vtlm-convert latest "$1" 2>/dev/null)" || newest=""
    [ "$newest" != "$1/checkpoint_last.pt" ] || return 0
    rm "$1/checkpoint_last.pt"
    [ -z "$newest" ] || cp "$newest" "$1/checkpoint_last.pt"
}

# shown FILE...: print results.
shown() {
    if [ -z "$show" ]; then
        local file
        for file in "$@"; do
            echo
            cat "$file"
        done
    fi
}
