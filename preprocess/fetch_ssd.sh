#!/usr/bin/env bash
# Get the Open Images V4 SSD (MobileNetV2, 300 x 300, 23 classes) that --detector litert-ssd runs.
#   bash preprocess/fetch_ssd.sh FOLDER
# It comes out of the npm package of MediaPipe's Objectron (Apache-2.0, 33 MB); checksums of what is cut out are
# verified. Leaves ssd_mobilenetv2_oidv4_fp16.tflite (10 MB) and labels.txt in FOLDER.
set -euo pipefail

if [ $# -ne 1 ]; then
    echo "usage: $0 FOLDER" >&2
    exit 2
fi
out=$1
model=ssd_mobilenetv2_oidv4_fp16.tflite
model_sha256=d0a5255bf8c4f5a0bc4240741a76c41d5e939f7655078f945f50ab53a9375da6
labels_sha256=ceb92c1c6e9f198c48ceb78af0692ebc5cbea6922cf492814f62077d03319ae4
package=@mediapipe/objectron@0.4.1675468480

has() { [ "$(sha256sum "$1" 2>/dev/null | cut -d' ' -f1)" = "$2" ]; }

if has "$out/$model" $model_sha256 && has "$out/labels.txt" $labels_sha256; then
    echo "$out/$model: there already"
    exit 0
fi
if ! command -v npm >/dev/null; then
    echo "error: npm, with which the model is fetched, is not installed (Debian: apt-get install npm)" >&2
    exit 1
fi
mkdir -p "$out"
scratch=$(mktemp -d "$out/.fetch.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
if ! (cd "$scratch" && npm pack --silent "$package" >/dev/null); then
    echo "error: npm cannot fetch $package, see above; is the npm registry in reach?" >&2
    exit 1
fi
tar -xzf "$scratch"/*.tgz -C "$scratch" package/objectron_solution_packed_assets.data
assets=$scratch/package/objectron_solution_packed_assets.data
# the labels ("???" for the background first) lie before byte 184, the model from there
tail -c +185 "$assets" | head -c 9987728 >"$scratch/$model" || true
head -c 184 "$assets" | tail -n +2 >"$scratch/labels.txt"
for file in "$model $model_sha256" "labels.txt $labels_sha256"; do
    read -r name sha256 <<<"$file"
    if ! has "$scratch/$name" "$sha256"; then
        echo "error: $name from $package has another checksum than expected ($sha256); the download is damaged: run again" >&2
        exit 1
    fi
done
mv "$scratch/labels.txt" "$scratch/$model" "$out"
echo "$out/$model"
