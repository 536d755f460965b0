#!/bin/bash
# The two studies of docs/results: ENet on CamVid and a narrow GENet on CIFAR-10, five seeds of both
# sides each; and their pages.
#
#     docs/results/studies.sh OUT CAMVID CIFAR10    # trains, or goes on, after any end; then as below
#     docs/results/studies.sh OUT                   # writes the pages of what is in OUT
#
# CAMVID and CIFAR10 are the data sets' folders (docs/data.md says where they come from). The pages
# are study-enet-camvid.md and study-genet-cifar10.md beside this file, with their pictures. What is to
# be said of the published runs, and of no others, is in study-NAME.note, which is put into the page:
# remove it where OUT holds runs of your own.
set -eu
if [ $# -ne 1 ] && [ $# -ne 3 ]; then
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
out=$1 camvid=${2:-} cifar10=${3:-}
here=$(cd "$(dirname "$0")" && pwd)

enet=(enet-camvid --seeds 5 --epochs 15 --size 90x120 --set stages.all.schedule.every=10
    --set validate_every=5 --workers 1)
genet=(genet-cifar10 --seeds 5 --epochs 1 --precision fp32 --loss-scale none
    --set stages.all.width=1 --set stages.all.depth=10 --workers 1)

page() { # NAME TITLE DATA COMMAND...: docs/results/study-NAME.md and .svg
    local target=$here/study-$1
    parity table "$out/$1" --picture "$target.svg" --markdown "$target.md.new" > /dev/null
    {
        printf '# %s\n\n    parity study %s --data %s --out OUT' "$2" "$4" "$3"
        shift 4
        while [ $# -gt 0 ]; do
            case $1 in --workers) shift 2; continue ;; esac
            case $2 in
            *\[*) printf ' \\\n        %s "%s"' "$1" "$2" ;;
            *) printf ' \\\n        %s %s' "$1" "$2" ;;
            esac
            shift 2
        done
        printf '\n\nTwo cores of a virtual machine without a GPU. What the tables say, and how it is'
        printf ' judged:\n[studies](../study.md). `docs/results/studies.sh` repeats it and writes'
        printf ' this page.\n\n'
        [ ! -e "$target.note" ] || { cat "$target.note"; echo; }
        cat "$target.md.new"
    } > "$target.md"
    rm "$target.md.new"
    echo "wrote $target.md and $target.svg"
    [ ! -e "$target.note" ] || echo "with $target.note: is that true of these runs?"
}

if [ -n "$camvid" ]; then
    parity study "${enet[@]}" --data "$camvid" --out "$out/enet-camvid"
    parity study "${genet[@]}" --data "$cifar10" --out "$out/genet-cifar10"
fi
[ ! -e "$out/enet-camvid" ] ||
    page enet-camvid "ENet on CamVid: five seeds of both sides" CAMVID "${enet[@]}"
[ ! -e "$out/genet-cifar10" ] ||
    page genet-cifar10 "GENet on CIFAR-10: five seeds of both sides" CIFAR10 "${genet[@]}"
