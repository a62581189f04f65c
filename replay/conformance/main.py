"""Speaks `pmpo.replay.v1` to a server as a stranger would: stock gRPC, NumPy and the .proto alone.

    main.py target/release/pmpo [words of the names of checks]

Prints a line for each check and exits with 1 if one has failed, naming it.
"""

import importlib
import pathlib
import sys
import tempfile
import time
import traceback

from grpc_tools import protoc

HERE = pathlib.Path(__file__).parent
PROTO = HERE.parent.parent / "proto" / "proto"
MODULES = ("writing", "sampling", "refusals", "failover", "tables")


def generate(folder):
    """The protocol's Python, for this run alone."""
    file = PROTO / "pmpo" / "replay" / "v1" / "replay.proto"
    arguments = [f"--proto_path={PROTO}", f"--python_out={folder}", f"--grpc_python_out={folder}"]
    if protoc.main(["protoc", *arguments, str(file)]) != 0:
        sys.exit(f"{file}: not compiled")


def main():
    binary, words = sys.argv[1], sys.argv[2:]
    failed, done = [], 0
    with tempfile.TemporaryDirectory() as generated:
        generate(generated)
        sys.path[:0] = [generated, str(HERE)]
        for module in MODULES:
            module = importlib.import_module(module)
            for name, check in vars(module).items():
                if not name.startswith("check_") or not all(word in name for word in words):
                    continue
                start = time.monotonic()
                try:
                    check(binary)
                    outcome = "ok"
                except Exception:
                    traceback.print_exc()
                    failed.append(name)
                    outcome = "FAILED"
                done += 1
                print(f"{outcome:6} {name} ({time.monotonic() - start:.1f} s)", flush=True)
    if failed or not done:
        sys.exit(f"conformance: {len(failed)} of {done} checks failed: {', '.join(failed)}")
    print(f"conformance: all {done} checks passed")


if __name__ == "__main__":
    main()
