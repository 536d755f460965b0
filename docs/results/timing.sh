# shellcheck shell=bash
# Parts of a given time, for the scripts of this folder: `minutes` and `begun` are set before.

share() { # PERCENT of the time that is left, in seconds
    local left=$((60 * minutes - SECONDS + begun))
    echo $((left * $1 > 100 ? left * $1 / 100 : 1))
}
within() { # PERCENT COMMAND...: its status; 0, and a line, where its time was over
    local limit code=0
    limit=$(share "$1")
    # By Ctrl-C, at which a study stores where it is. In the foreground, as it would come twice
    # otherwise, to the program and to its group; the second ends it at once.
    timeout --foreground --signal=INT --kill-after=20 "$limit" "${@:2}" || code=$?
    if [ "$code" = 124 ] || [ "$code" = 137 ]; then
        echo "stopped: its $limit s were over${again:+; $again}"
        return 0
    fi
    return "$code"
}
