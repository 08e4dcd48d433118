"""Generates the client's stubs from the contract; with --check says whether those in the tree are in step."""

import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

PROTOS = Path(__file__).resolve().parent
CLIENT = PROTOS.parent / "client"
CONTRACT = "nextact/v1/behavior.proto"
STUBS = [f"nextact/v1/behavior_pb2{suffix}" for suffix in (".py", ".pyi", "_grpc.py")]


def generate(target: Path) -> None:
    """Writes the stubs under `target`; raises SystemExit where protoc refuses the contract."""
    arguments = [
        f"-I{PROTOS}",
        f"--python_out={target}",
        f"--pyi_out={target}",
        f"--grpc_python_out={target}",
        CONTRACT,
    ]
    if protoc.main(["protoc", f"-I{Path(protoc.__file__).parent / '_proto'}", *arguments]) != 0:
        raise SystemExit(f"protoc refused {CONTRACT}")


def stale(fresh: Path) -> list[str]:
    """The stubs of the tree that differ from those just made under `fresh`."""
    return [s for s in STUBS if not (CLIENT / s).exists() or (CLIENT / s).read_bytes() != (fresh / s).read_bytes()]


def main() -> None:
    if "--check" not in sys.argv[1:]:
        generate(CLIENT)
        return
    with tempfile.TemporaryDirectory() as directory:
        generate(Path(directory))
        if differing := stale(Path(directory)):
            raise SystemExit(f"not in step with protos/{CONTRACT}: {', '.join(differing)} (run `make protos`)")


if __name__ == "__main__":
    main()
