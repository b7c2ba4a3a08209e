"""``python -m helpers tutorial``: the notebooks in order, and a table of their results."""

import argparse

from ..paths import BUILD


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NOTEBOOK", help="for example 02 05; by default all")
    parser.add_argument("--save", action="store_true", help="for maintainers: store the outputs in notebooks/")


def main(args: argparse.Namespace) -> int:
    from ..series.run import find_notebooks, run_series, save_outputs, table

    summary = run_series(args.names)
    if args.save:
        save_outputs(args.names)
    print(f"\n{table(summary)}\n")
    first = find_notebooks(args.names)[0].stem
    print(f"Read the executed notebooks in a browser, beginning with {BUILD / 'notebooks' / first}.html")
    print(f"All numbers: {BUILD / 'summary.json'}. Run them yourself in JupyterLab: make lab")
    return 0
