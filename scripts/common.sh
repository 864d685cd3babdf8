# Sourced by the scripts beside it: the cache outside the repository, and a virtual environment.

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${KSM_ESTIMATOR_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ksm-estimator}

say() { printf '\n\033[1m==> %s\033[0m\n' "$*" >&2; }

# make_venv EXTRAS [REQUIREMENT...]: sets $venv to an environment with this clone installed in it,
# and the requirements, made once for each state of pyproject.toml. Of $python, else of python3.
make_venv() {
    local python=${python:-python3}
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        echo "Python 3.11 or newer is needed, this is $("$python" --version)" >&2
        exit 1
    fi
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        say "installing python3-venv"
        apt-get update -qq && apt-get install -y -qq python3-venv >&2
    fi
    local key
    key=$( (echo "$repo" "$@"; "$python" --version; cat "$repo/pyproject.toml") | sha256sum | cut -c1-16)
    venv=$cache/venvs/$key
    if [ ! -e "$venv/complete" ]; then
        say "making a virtual environment in $venv"
        local old
        for old in "$cache"/venvs/*/complete; do  # of clones that are gone
            if [ -s "$old" ] && [ ! -d "$(cat "$old")" ]; then rm -rf "${old%/*}"; fi
        done
        rm -rf "$venv"
        mkdir -p "$cache/venvs"
        "$python" -m venv "$venv"
        "$venv/bin/pip" install --quiet --disable-pip-version-check --editable "$repo$1" "${@:2}" >&2
        echo "$repo" > "$venv/complete"
    fi
}

# lower_bounds: the oldest version of each dependency that pyproject.toml allows, one a line, as
# requirements for pip: numpy>=2.0 is numpy==2.0.*.
lower_bounds() {
    "${python:-python3}" - "$repo/pyproject.toml" <<'END'
import re
import sys
import tomllib

with open(sys.argv[1], "rb") as file:
    project = tomllib.load(file)["project"]
for line in project["dependencies"] + project["optional-dependencies"]["report"]:
    print(re.sub(r">=([0-9.]+)", lambda bound: f"=={bound[1]}.*", line))
END
}
