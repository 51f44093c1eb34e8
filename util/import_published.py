"""Turn published weights into a checkpoint for inference.

    python util/import_published.py --weights latest_net_G.pth --name published
    python eval_3d_sagittal_twostage.py --name published

Reads a state dict of the published generator, its names prefixed by `module.` or not, and runs nothing that
the file holds. Writes <checkpoints_dir>/<name>/best_generator.safetensors.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from options.base_options import HelpFormatter, check_run_name
from options.test_options import BEST_GENERATOR
from util.cli import run_script


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of this script."""
    parser = argparse.ArgumentParser(
        formatter_class=HelpFormatter, description="Turns published weights into a checkpoint for inference: "
        f"<checkpoints_dir>/<name>/{BEST_GENERATOR}.")
    parser.add_argument("--weights", type=Path, required=True,
                        help="state dict of the published generator, written by torch.save")
    parser.add_argument("--name", default="published", help="name of the run, a folder in --checkpoints_dir")
    parser.add_argument("--checkpoints_dir", type=Path, default=Path("checkpoints"),
                        help="where runs are kept")
    parser.add_argument("--plane", choices=("sagittal", "coronal"), default="sagittal",
                        help="whose slices the weights were trained on")
    parser.add_argument("--attention", choices=("heatmap", "none"), default="heatmap",
                        help="none for weights that were trained without heatmaps, on a map of ones")
    parser.add_argument("--overwrite", action="store_true", help="replace a checkpoint that is there")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script and return its exit status."""
    args = build_parser().parse_args(argv)
    check_run_name(args.name)
    from models.published_weights import import_published

    target = args.checkpoints_dir / args.name / BEST_GENERATOR
    import_published(args.weights, target, plane=args.plane, attention=args.attention,
                     overwrite=args.overwrite)
    print(f"imported: {target}; next: python eval_3d_sagittal_twostage.py --name {args.name} "
          f"--checkpoints_dir {args.checkpoints_dir}")
    return 0


if __name__ == "__main__":
    raise SystemExit(run_script(main))
