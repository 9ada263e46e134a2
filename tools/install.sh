#!/bin/sh
# Creates or updates .venv; what `make install-demo` and `make install` run. PYTHON=... chooses the interpreter.
# The argument names the set of packages: demo (no torch) or test (everything). One environment holds both.
set -eu
cd "$(dirname "$0")/.."
packages=${1:-test}
venv=.venv
export PIP_DISABLE_PIP_VERSION_CHECK=1

fail() {
    echo "make install: $1" >&2
    exit 1
}

python_version() { # of the interpreter $1, "missing" if it does not run
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || echo missing
}

digest() { # of the names and contents of everything below the paths given
    find "$@" -type f ! -path '*/__pycache__/*' -exec sha256sum {} + | LC_ALL=C sort | sha256sum
}

any_compiles() { # a program in language $1, by one of the compilers that follow
    language=$1
    shift
    for compiler in "$@"; do
        echo 'int main() { return 0; }' | "$compiler" -x "$language" -o /dev/null - 2>/dev/null && return
    done
    return 1
}

choose_python() { # prints the first interpreter that fits
    seen=
    for candidate in ${PYTHON:-python3 python3.12 python3.11 python3.10}; do
        version=$(python_version "$candidate")
        case $version in
        3.10 | 3.11 | 3.12) echo "$candidate" && return ;;
        *) seen="$seen; $candidate is $version" ;;
        esac
    done
    fail "Python 3.10, 3.11 or 3.12 is missing$seen; choose one by PYTHON=/path/to/python"
}

check_prerequisites() {
    [ "$(uname -s) $(uname -m)" = "Linux x86_64" ] ||
        fail "the ROS 2 wheels are for Linux x86_64, this is $(uname -s) $(uname -m): use colcon build (README.md)"
    [ -z "${ROS_DISTRO:-}" ] || [ -z "${AMENT_PREFIX_PATH:-}" ] ||
        fail "ROS 2 $ROS_DISTRO is sourced in this shell: use colcon build (README.md), or a shell without it"
    any_compiles c++ ${CXX:-c++ g++ clang++} || fail "a C++ compiler is missing (tried ${CXX:-c++, g++, clang++})"
    any_compiles c ${CC:-cc gcc clang} || fail "a C compiler is missing (tried ${CC:-cc, gcc, clang})"
    "$1" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "the venv module of $1 is missing: install python$(python_version "$1")-venv"
    "$1" -c 'import os, sysconfig; os.stat(os.path.join(sysconfig.get_path("include"), "Python.h"))' 2>/dev/null ||
        fail "the C headers of $1 are missing: install python$(python_version "$1")-dev"
}

case $packages in
demo) files=constraints/demo.txt ;;
test) files="constraints/demo.txt constraints/test.txt" ;;
*) fail "unknown set of packages $packages: choose demo or test" ;;
esac
pins=$(digest $files)
# The package is built with what demo.txt pins.
sources=$(digest CMakeLists.txt constraints/demo.txt package.xml pyproject.toml setup.py action cmake config dynofa_ros launch msg scripts)

is_installed() { # what the digest $2 names, according to the file $1 of the environment
    [ "$(cat "$venv/$1.sha256" 2>/dev/null)" = "$2" ]
}

if [ -z "${PYTHON:-}" ] && is_installed "$packages" "$pins" && is_installed dynofa_ros "$sources"; then
    exit 0
fi

python=$(choose_python)
check_prerequisites "$python"
# -I: neither this folder nor PYTHONPATH is part of the environment.
if ! $venv/bin/python -I -m pip --version >/dev/null 2>&1 ||
    { [ -n "${PYTHON:-}" ] && [ "$(python_version "$python")" != "$(python_version $venv/bin/python)" ]; }; then
    "$python" -m venv --clear $venv
fi
if ! is_installed "$packages" "$pins"; then
    $venv/bin/python -I -m pip install -r "constraints/$packages.txt"
    echo "$pins" >"$venv/$packages.sha256"
    [ "$packages" = demo ] || digest constraints/demo.txt >$venv/demo.sha256
fi
if ! is_installed dynofa_ros "$sources"; then
    echo "make install: building dynofa_ros (about a minute the first time)"
    # With the pinned generators all sources of a target can be compiled as one, which is faster.
    UNITY_BUILD=ON $venv/bin/python -I -m pip install --quiet --no-deps --no-build-isolation --force-reinstall .
    echo "$sources" >$venv/dynofa_ros.sha256
fi
