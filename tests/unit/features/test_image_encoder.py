import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nextact_server.features.decode import ImageLimits, decode_image
from nextact_server.features.errors import EncoderError
from nextact_server.features.image import ImageEncoder, find_weights, image_features, load_image_encoder
from nextact_server.features.loading import EncoderOptions
from nextact_server.features.projection import Projection, save_projection
from nextact_server.features.vectors import unit_rows


def random_images(seed: int, count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 256, (count, 224, 224, 3), dtype=np.uint8))


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1000), count=st.integers(2, 6))
def test_a_batch_gives_what_its_images_give_alone(image_encoder: ImageEncoder, seed: int, count: int) -> None:
    images = random_images(seed, count)
    together = np.stack(image_encoder.run(images))
    alone = np.stack([image_encoder.run([image])[0] for image in images])
    assert np.abs(together - alone).max() <= 1e-5


def test_vectors_are_unit_float32_of_the_content_space(image_encoder: ImageEncoder) -> None:
    vectors = np.stack(image_encoder.run(random_images(0, 2)))
    assert vectors.shape == (2, 384)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)


def test_the_converted_model_computes_what_the_torch_module_does(
    image_encoder: ImageEncoder, repository: Path, grocery: list[bytes]
) -> None:
    from nextact_server.features.backbones import efficientnet_lite0
    from nextact_server.features.projection import load_projection

    projection = load_projection(repository / "image_encoder" / "1" / "projection.safetensors", 1280)
    module = efficientnet_lite0(find_weights("efficientnet-lite0", None).path)
    images = [decode_image(data, image_encoder.pixels, ImageLimits()) for data in grocery[:3]]
    with torch.inference_mode():
        expected = unit_rows(projection.apply(module(torch.from_numpy(np.stack(images))).numpy()))
    assert np.abs(np.stack(image_encoder.run(images)) - expected).max() <= 1e-5


def test_alike_photos_are_closer_than_others(image_encoder: ImageEncoder, grocery: list[bytes]) -> None:
    from_names = {
        path.parent.name: path for path in sorted(Path(__file__).parents[3].glob("examples/grocery/**/*.jpg"))
    }
    names = ["Granny-Smith", "Pink-Lady", "Arla-Standard-Milk", "Garant-Ecological-Standard-Milk"]
    images = [decode_image(from_names[name].read_bytes(), image_encoder.pixels, ImageLimits()) for name in names]
    apple, other_apple, milk, other_milk = image_encoder.run(images)
    assert apple @ other_apple > max(apple @ milk, apple @ other_milk) + 0.2
    assert milk @ other_milk > max(milk @ apple, milk @ other_apple) + 0.2


def version_with(tmp_path: Path, repository: Path, card: str | None = None) -> Path:
    target = tmp_path / "1"
    shutil.copytree(repository / "image_encoder" / "1", target)
    if card is not None:
        (target / "card.json").write_text(card)
    return target


@pytest.mark.parametrize(
    ("card", "said"),
    [
        ('{"encoder": "vgg"}', "encoder"),
        ('{"encoder": "efficientnet-lite0", "colour": 1}', "colour"),
        ("{", "card"),
        ('{"encoder": "efficientnet-lite0", "weights_path": "gone.pth"}', "weights_path"),
    ],
)
def test_a_wrong_card_is_named_with_its_field(
    tmp_path: Path, repository: Path, options: EncoderOptions, card: str, said: str
) -> None:
    version = version_with(tmp_path, repository, card)
    with pytest.raises(EncoderError, match=said) as caught:
        load_image_encoder(version, options)
    assert str(version) in str(caught.value)


def test_a_missing_card_is_named(tmp_path: Path, options: EncoderOptions) -> None:
    with pytest.raises(EncoderError, match=r"card\.json: cannot be read"):
        load_image_encoder(tmp_path, options)


def test_a_missing_projection_says_how_to_fit_one(tmp_path: Path, repository: Path, options: EncoderOptions) -> None:
    version = version_with(tmp_path, repository)
    (version / "projection.safetensors").unlink()
    with pytest.raises(EncoderError, match=r"fit_image_projection\.py"):
        load_image_encoder(version, options)


def test_weights_that_are_a_pickle_of_code_are_refused_not_run(
    tmp_path: Path, repository: Path, options: EncoderOptions
) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (Path(tmp_path / "was-run"),))  # type: ignore[return-value]

    torch.save({"weight": Malicious()}, tmp_path / "evil.pth")
    version = version_with(tmp_path, repository, '{"encoder": "efficientnet-lite0", "weights_path": "../evil.pth"}')
    with pytest.raises(EncoderError, match=r"evil\.pth"):
        load_image_encoder(version, EncoderOptions(tmp_path / "cache", options.cores, 2, "KIND_CPU"))
    assert not (tmp_path / "was-run").exists()


def test_resnet18_runs_with_a_weight_file_and_a_projection_of_ones_own(tmp_path: Path, options: EncoderOptions) -> None:
    from torchvision.models import resnet18

    torch.manual_seed(0)
    torch.save(resnet18(weights=None).state_dict(), tmp_path / "resnet18.pth")
    rng = np.random.default_rng(0)
    save_projection(
        Projection(rng.normal(size=(384, 512)).astype(np.float32), np.zeros(384, np.float32)),
        tmp_path / "projection.safetensors",
    )
    (tmp_path / "card.json").write_text('{"encoder": "resnet18", "weights_path": "resnet18.pth"}')
    own = EncoderOptions(tmp_path / "cache", options.cores, 2, "KIND_CPU")
    encoder = load_image_encoder(tmp_path, own)
    images = random_images(1, 2)
    vectors = np.stack(encoder.run(images))
    assert vectors.shape == (2, 384)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert encoder.version.startswith("resnet18-")
    features, _ = image_features("resnet18", tmp_path / "resnet18.pth", own)
    assert features.run(np.stack(images)).shape == (2, 512)


def test_another_projection_is_another_version(
    tmp_path: Path, repository: Path, options: EncoderOptions, image_encoder: ImageEncoder
) -> None:
    version = version_with(tmp_path, repository)
    save_projection(
        Projection(np.ones((384, 1280), np.float32), np.zeros(384, np.float32)), version / "projection.safetensors"
    )
    other = load_image_encoder(version, options)
    assert other.version != image_encoder.version
    image = random_images(2, 1)
    assert np.abs(other.run(image)[0] - image_encoder.run(image)[0]).max() > 1e-3
