"""Arguments that several verbs of studies take."""

import argparse


def add_study(parser: argparse.ArgumentParser, more: str = "") -> None:
    """Declare a study, where its results go and where it is kept."""
    parser.add_argument("study", help=f"YAML file, or the name of a ready-made study{more}")
    parser.add_argument("--out", help="folder for the results (default runs/ablations/NAME)")
    parser.add_argument("--storage", help="database URL that several machines share (default: SQLite in --out)")
