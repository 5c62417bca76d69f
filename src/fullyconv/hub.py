"""A model with its card, as a folder or on the Hugging Face Hub (extra `hub`).

The card is a README with the YAML head that huggingface.co/docs/hub/model-cards describes. A folder has
`model.safetensors`, which is a model file like any other, and `README.md`.
"""

import importlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fullyconv import __version__
from fullyconv.atomic import atomic_folder
from fullyconv.errors import ModelFileError, UsageError, show_path
from fullyconv.image_form import ImageForm
from fullyconv.model import FCN
from fullyconv.model_file import load_model, read_description, save_model

__all__ = ["MODEL_FILE", "from_pretrained", "model_card", "push_to_hub", "save_pretrained"]

MODEL_FILE, CARD_FILE = "model.safetensors", "README.md"


_USE = """
## Use

```python
from fullyconv import Predictor
from fullyconv.hub import from_pretrained

predictor = Predictor(from_pretrained("NAME OR FOLDER"))
mask = predictor.predict("photo.jpg")
```

Images may have any size; the mask holds class indices in the order above.
"""


def model_card(
    description: Mapping[str, Any], title: str, *, data: str | None = None, licence: str | None = None
) -> str:
    """Write a model card in Markdown.

    Args:
        description: What the model file says of itself.
        title: The model's name.
        data: What it was trained on, in a few words.
        licence: Of the model, as an SPDX name or one of the Hub's; left out by default, since it is its author's
            to choose.
    """
    record = description.get("training") or {}
    # JSON is YAML.
    head = [
        f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in _head(description, title, data).items()
    ]
    head += [f"license: {json.dumps(licence.lower())}"] if licence else []
    names = ", ".join(entry["name"] for entry in description["class_table"]["classes"])
    lines = ["---", *head, "---", "", f"# {title}", "", f"Semantic segmentation: {names}."]
    lines += ["", f"Trained on {data}."] if data else []
    lines += [_USE, "## What it is", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in _facts(description)]
    lines += ["", "## How good it is", ""]
    if (score := record.get("val_mean_iou")) is not None:
        lines.append(
            f"Mean IoU {score:.4f} on the {record.get('val_images', '-')} images of the validation split, on "
            "which the best epoch was chosen: on new images it may be lower. `fullyconv report` measures more."
        )
    else:
        lines.append("It was not measured in training. `fullyconv report` does that.")
    lines += ["", "On images of another kind than those of the training nothing is known of it.", ""]
    return "\n".join(lines)


def _head(description: Mapping[str, Any], title: str, data: str | None) -> dict[str, Any]:
    """What the Hub reads."""
    head: dict[str, Any] = {
        "library_name": "fullyconv",
        "pipeline_tag": "image-segmentation",
        "tags": ["semantic-segmentation", "fully-convolutional-network", description["encoder"]["name"]],
    }
    score = (description.get("training") or {}).get("val_mean_iou")
    if score is not None:
        measured = {"type": "mean_iou", "name": "mean IoU (val)", "value": round(score, 4)}
        task = {"task": {"type": "image-segmentation"}, "dataset": {"name": data or "unnamed", "type": "custom"}}
        head["model-index"] = [{"name": title, "results": [{**task, "metrics": [measured]}]}]
    return head


def _facts(description: Mapping[str, Any]) -> list[tuple[str, str]]:
    encoder, decoder = description["encoder"], description["decoder"]
    return [
        ("encoder", f"{encoder['name']}, fixed; scales {encoder['scales']}, strides {encoder['strides']}"),
        ("images", str(ImageForm.from_json(encoder.get("image_form")))),
        ("its weights", f"{encoder['weights_source']}, licence {encoder['weights_licence']}"),
        ("decoder", ", ".join(f"{key} {value}" for key, value in sorted(decoder.items()))),
        ("training", _training(description.get("training") or {})),
        ("digest", str(description.get("digest", "-"))),
        ("fullyconv", __version__),
    ]


def _training(record: Mapping[str, Any]) -> str:
    config = record.get("config", {})
    words = [f"{record['train_images']} images"] if "train_images" in record else []
    words += [f"{key} {config[key]}" for key in ("loss", "lr", "epochs", "seed") if key in config]
    return ", ".join(words) or "-"


def save_pretrained(
    model: FCN | str | Path, folder: str | Path, *, data: str | None = None, licence: str | None = None
) -> Path:
    """Write a folder with a model file and its card.

    Args:
        model: A model, or the path of a model file, which is copied byte for byte.
        folder: The folder to make, in an existing one; it appears whole or not at all. Its name is the title.
        data: As of `model_card`.
        licence: As of `model_card`.

    Raises:
        UsageError: There is something already.
        ModelFileError: The file is no model file, or damaged.
    """
    folder = Path(folder)
    with atomic_folder(folder) as temporary:
        path = temporary / MODEL_FILE
        if isinstance(model, FCN):
            save_model(model, path)
        else:
            load_model(model)  # it has to be sound
            shutil.copyfile(model, path)
        card = model_card(read_description(path), folder.name, data=data, licence=licence)
        (temporary / CARD_FILE).write_text(card, encoding="utf-8")
    return folder


def from_pretrained(name: str | Path, *, revision: str | None = None) -> FCN:
    """Load a model from a folder that `save_pretrained` made, or from the Hub.

    Args:
        name: A folder, or the name of a repository, `owner/name`.
        revision: A branch, tag or commit of the repository.

    Raises:
        UsageError: The extra is missing.
        ModelFileError: Nothing is there, or the file is no model file.
    """
    folder = Path(name)
    if folder.is_dir():
        return load_model(folder / MODEL_FILE)
    hub = _hub()
    try:
        path = hub.hf_hub_download(str(name), MODEL_FILE, revision=revision)
    except Exception as error:  # a dozen kinds: no such repository, no network, no access
        reason = " ".join(str(error).split())[:200]
        raise ModelFileError(
            f"{show_path(name)}: expected a folder with {MODEL_FILE}, or a repository on the Hub that has one, "
            f"got none ({reason})"
        ) from error
    return load_model(path)


def push_to_hub(folder: str | Path, repository: str, *, private: bool = True) -> str:
    """Upload a folder that `save_pretrained` made.

    Args:
        folder: The folder.
        repository: `owner/name`; it is made if it is not there.
        private: Whether a new one is seen by its owner alone.

    Returns:
        The address of the commit.

    Raises:
        UsageError: The extra is missing, or the folder is none of these.
    """
    folder = Path(folder)
    missing = [name for name in (MODEL_FILE, CARD_FILE) if not (folder / name).is_file()]
    if missing:
        raise UsageError(
            f"{show_path(folder)}: expected what save_pretrained writes, {' and '.join(missing)} missing"
        )
    hub = _hub()
    hub.create_repo(repository, private=private, exist_ok=True)
    done = hub.upload_folder(repo_id=repository, folder_path=folder, allow_patterns=[MODEL_FILE, CARD_FILE])
    return str(done)


def _hub() -> Any:
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError:
        raise UsageError(
            "the Hugging Face Hub needs huggingface_hub", hint='install it with: pip install "fullyconv[hub]"'
        ) from None
