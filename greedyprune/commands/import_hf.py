"""`tools/import_hf.py`: a detector that HuggingFace transformers saved, as a checkpoint of this project."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from greedyprune.cli import Parser
from greedyprune.errors import UserError
from greedyprune.models import read_checkpoint, save_checkpoint
from greedyprune.models.checkpoint import open_detector
from greedyprune.models.importing.config import Config
from greedyprune.models.importing.huggingface import convert_huggingface, huggingface_info
from greedyprune.models.importing.huggingface_deformable import convert_deformable
from greedyprune.models.registry import model_name
from greedyprune.text import file_path, plain_text

# HuggingFace's model_type -> what converts it. What else there is DAB-DETR's import refuses.
IMPORTS = {"dab-detr": convert_huggingface, "deformable_detr": convert_deformable}
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
        "--key",
        type=plain_text,
        metavar="NAME",
        help="which set of weights, where a file holds several (default: the only one)",
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
    config = _read_config(weights.parent / "config.json")
    preprocessor_file = weights.parent / "preprocessor_config.json"
    preprocessor = _read_config(preprocessor_file) if preprocessor_file.exists() else Config({}, str(preprocessor_file))
    kind = config.values.get("model_type")
    kind = kind if isinstance(kind, str) and kind in IMPORTS else "dab-detr"
    output = args.output or Path(f"{kind.replace('-', '_')}.safetensors")
    if output.resolve() == weights.resolve():
        raise UserError(f"--output {output} is the file to import; choose another name")
    if output.is_dir():
        raise UserError(f"--output {output} is a folder; give the name of a file")
    state, about, _ = read_checkpoint(weights, args.key)
    if about:
        raise UserError(f"{weights} is a checkpoint of this project, which every tool reads as it is")
    options, widths, converted = IMPORTS[kind](state, config)
    info = huggingface_info(config, preprocessor, options.num_classes)
    model = open_detector(options, widths, info, converted, "the HuggingFace model")
    try:
        save_checkpoint(model, output)
    except OSError as error:
        raise UserError(f"--output {output} cannot be written: {error.strerror}") from None
    print(
        f"{output}: {model_name(model)}, {options.backbone}{' DC5' if options.dilation else ''}, "
        f"{options.enc_layers} + {options.dec_layers} layers, {options.num_queries} queries, "
        f"{options.num_classes} classes"
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


def _read_config(path: Path) -> Config:
    if not path.is_file():
        raise UserError(f"{path} does not exist; it tells how the weights are to be read, and belongs beside them")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{path} is broken: it holds no JSON object")
    return Config(content, str(path))
