# Sourced by the scripts beside it: the cache outside the repository, and a virtual environment.

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${KSM_ESTIMATOR_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ksm-estimator}

say() { printf '\n\033[1m==> %s\033[0m\n' "$*" >&2; }

# make_venv EXTRAS: sets $venv to an environment with this clone installed in it, made once for
# each state of pyproject.toml.
make_venv() {
    if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        echo "Python 3.11 or newer is needed, this is $(python3 --version)" >&2
        exit 1
    fi
    if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
        say "installing python3-venv"
        apt-get update -qq && apt-get install -y -qq python3-venv >&2
    fi
    local key
    key=$( (echo "$repo" "$1"; python3 --version; cat "$repo/pyproject.toml") | sha256sum | cut -c1-16)
    venv=$cache/venvs/$key
    if [ ! -e "$venv/complete" ]; then
        say "making a virtual environment in $venv"
        rm -rf "$venv"
        mkdir -p "$cache/venvs"
        python3 -m venv "$venv"
        "$venv/bin/pip" install --quiet --disable-pip-version-check --editable "$repo$1" >&2
        touch "$venv/complete"
    fi
}
