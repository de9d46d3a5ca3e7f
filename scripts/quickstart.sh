#!/bin/sh
# Train a small agent into the folder $1, resume the run there, or say that it is done. Further arguments go to
# `stapo train`. $STAPO is the command to use.
set -eu

run=$1
shift
stapo=${STAPO:-stapo}

show() {
    echo
    echo "Open $run/report.html in a browser, or: $stapo report $run --open"
    echo "Look into it:   $stapo view $run"
    echo "Train another:  make quickstart RUN=runs/another    (or: $stapo train tiny-conversation --seed 1)"
}

if [ -e "$run/run.json" ]; then
    if grep -q '"status": "done"' "$run/run.json"; then
        echo "There is a finished run in $run already; it was left as it is."
        [ -e "$run/report.html" ] || "$stapo" report "$run"
        show
        exit 0
    fi
fi

# The same command resumes a run that was interrupted.
"$stapo" train tiny-conversation --out "$run" "$@"
show
