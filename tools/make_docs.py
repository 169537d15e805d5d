"""Write what is generated in the documentation: the model zoo table of docs/models.md, and the API reference.

python tools/make_docs.py [--check | --api DIR]
"""

import argparse
import os
import pkgutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import ppmobilenet  # noqa: E402
from ppmobilenet.paper.zoo_table import update  # noqa: E402

# commands are documented by --help; the worker is started by a file's name, in another Python
HIDDEN = ("ppmobilenet.commands", "ppmobilenet.__main__", "ppmobilenet.field.engines.lite_worker")


def modules() -> list[str]:
    """Return every module that the reference describes."""
    found = [m.name for m in pkgutil.walk_packages(ppmobilenet.__path__, "ppmobilenet.")]
    return ["ppmobilenet", *(name for name in found if not name.startswith(HIDDEN))]


def write_reference(folder: Path) -> None:
    """Write HTML pages made from the docstrings."""
    import warnings

    import pdoc

    # types that are imported for annotations only are shown as written
    warnings.filterwarnings("ignore", module="pdoc")
    pdoc.render.configure(docformat="google", footer_text=f"ppmobilenet {ppmobilenet.__version__}", show_source=False)
    pdoc.pdoc(*modules(), output_directory=folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a table would change")
    parser.add_argument("--api", metavar="DIR", default=str(ROOT / "docs/api"), help="of the reference (docs/api)")
    args = parser.parse_args()
    changed = update(ROOT, write=not args.check)
    if args.check:
        return changed
    write_reference(Path(args.api))
    print(f"{changed} tables changed; the API reference: {os.path.relpath(args.api)}/index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
