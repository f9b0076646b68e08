"""`tools/import_hf.py`: a detector that HuggingFace transformers saved, as a checkpoint of this project."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from greedyprune.cli import Parser
from greedyprune.errors import UserError
from greedyprune.models import build_model, load_checkpoint, read_checkpoint, save_checkpoint
from greedyprune.models.huggingface import convert_huggingface, huggingface_info
from greedyprune.models.huggingface_deformable import convert_deformable
from greedyprune.text import file_path

# HuggingFace's model_type -> this project's model, and what converts it. What else there is DAB-DETR's import refuses.
IMPORTS = {"dab-detr": ("dn_detr", convert_huggingface), "deformable_detr": ("deformable_detr", convert_deformable)}
WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def parser() -> argparse.ArgumentParser:
    """The options of `tools/import_hf.py`."""
    parser = Parser(
        "Import a HuggingFace DAB-DETR (as a DN-DETR) or Deformable DETR from a local folder; nothing is downloaded. "
        "The result gives the same detections, and every other tool reads it."
    )
    parser.add_argument(
        "source",
        type=file_path,
        metavar="FOLDER_OR_FILE",
        help="folder with config.json and model.safetensors, or the weights with config.json beside them",
    )
    parser.add_argument(
        "--output",
        type=file_path,
        metavar="PATH",
        help="checkpoint to write (default: dab_detr.safetensors or deformable_detr.safetensors)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Import as the arguments say.

    Raises:
        UserError: files that are missing or broken, or a model that cannot be imported; nothing is written then.
    """
    args = parser().parse_args(argv)
    weights = _weights(args.source)
    config = _read_json(weights.parent / "config.json")
    preprocessor_file = weights.parent / "preprocessor_config.json"
    preprocessor = _read_json(preprocessor_file) if preprocessor_file.exists() else {}
    state, _, _ = read_checkpoint(weights)
    kind = config.get("model_type") if config.get("model_type") in IMPORTS else "dab-detr"
    name, convert = IMPORTS[str(kind)]
    output = args.output or Path(f"{str(kind).replace('-', '_')}.safetensors")
    if output.resolve() == weights.resolve():
        raise UserError(f"--output {output} is the file to import; choose another name")
    options, converted = convert(state, config)
    info = huggingface_info(config, preprocessor, options["num_classes"])
    model = load_checkpoint(build_model(name, info=info, **options), converted)
    save_checkpoint(model, output)
    print(
        f"{output}: {name}, {options['backbone']}{' DC5' if options['dilation'] else ''}, "
        f"{options['enc_layers']} + {options['dec_layers']} layers, {options['num_queries']} queries, "
        f"{options['num_classes']} classes"
    )
    return 0


def _weights(source: Path) -> Path:
    if not source.exists():
        raise UserError(f"{source} does not exist; give a folder that already holds the HuggingFace model's files")
    if source.is_file():
        return source
    for name in WEIGHTS:
        if (source / name).is_file():
            return source / name
    raise UserError(f"{source} has no {' or '.join(WEIGHTS)}")


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path} does not exist; it tells how the weights are to be read, and belongs beside them")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{path} is broken: it holds no JSON object")
    return content
