"""Updates a bundle with new fakes: trains on new and old samples together, and rejects the result if it got worse.

The new source is merged so that none of its pictures is a copy of a held-out one (`data.manifest_merge`), cropped like
the old data, and trained on together with repeated old samples (`data.replay`). The epoch is chosen by the validation
loss over old and new data, probabilities and thresholds by their calibration splits. The old and the new bundle are
then compared on their test splits. That comparison only decides if the bundle is written: whoever tries settings until
it passes has chosen them by the test split, whose figures are then too good.

Example:
    >>> done = update(UpdateConfig(new="folder:new-fakes", data=(Path("data"),), output=Path("runs/update")), reporter)
    >>> print(done.comparison.table(), done.losses)
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from fakeface_jax.atomic_files import make_directory, whole_file
from fakeface_jax.bundle import Bundle, load_bundle, save_bundle
from fakeface_jax.classifier import FaceClassifier
from fakeface_jax.data.augmentation_config import AugmentConfig, DegradeConfig, LoaderConfig, PseudoFakeConfig
from fakeface_jax.data.dataset import Dataset, build_dataset, join_datasets, open_dataset, text_of
from fakeface_jax.data.manifest import Manifest, load_manifest, merge
from fakeface_jax.data.manifest_merge import extend
from fakeface_jax.errors import BundleError, ConfigError, DataError
from fakeface_jax.evaluation.batch_scoring import predict
from fakeface_jax.evaluation.comparison import Comparison, compare
from fakeface_jax.evaluation.held_out import left_out
from fakeface_jax.evaluation.metrics import Estimate
from fakeface_jax.evaluation.paired_bootstrap import Scored
from fakeface_jax.training.card import model_card
from fakeface_jax.training.finish import finish
from fakeface_jax.training.train_config import NetworkConfig, OptimizerConfig, TrainConfig, UpdateConfig
from fakeface_jax.training.train_loop import Reporter, train

MANIFEST = "manifest.parquet"
"""File in the run directory with old and new rows, for the next update."""

NEW_MANIFEST = "new.parquet"
DATA = "data"
TRAINING = "training"
"""Directory in the run directory with the run of `train`, whose `bundle` is the candidate."""

TEST_SPLIT = "test"


@dataclasses.dataclass(frozen=True, kw_only=True)
class UpdateResult:
    """The result of an update.

    Attributes:
        candidate: the new model, calibrated; in `training/bundle` even if it was rejected.
        comparison: old and new bundle on the test splits of old and new data.
        losses: sources that lost more than allowed; empty if the candidate was accepted.
        bundle: the accepted bundle, in `bundle`; None if it was rejected.
        other_data: the old bundle was not trained on the old data: it may have seen pictures of their test split, and
            its own figures are then too good.
        data: old and new crops together.
    """

    candidate: Bundle
    comparison: Comparison
    losses: Mapping[str, Estimate]
    bundle: Bundle | None
    other_data: bool
    data: Dataset


def update(
    config: UpdateConfig,
    reporter: Reporter,
    *,
    resume: bool = False,
    progress: Callable[[int, int], None] | None = None,
    placed: Callable[[Manifest], None] | None = None,
) -> UpdateResult:
    """Trains a bundle on new and old samples, calibrates and compares it, and writes it unless it lost too much.

    The run directory contains `new.parquet` and `manifest.parquet` (new rows; old and new rows), `data` (crops of the
    new source), `training` (as `train` and `finish` leave it), `comparison.json` and, if accepted, `bundle`.

    Args:
        config: settings of the update.
        reporter: receives the progress of the training.
        resume: continue an update that stopped in the same directory, or judge it by another `max_loss`.
        progress: called with (new pictures read, all new pictures).
        placed: called with the new rows once they have groups and splits.

    Raises:
        ConfigError: settings, bundle, manifest and data do not belong together.
        DataError: a source cannot be read, or has too few new pictures to train and test on.
        BundleError: `bundle` cannot be read, or its weights cannot be trained further.
        Interrupted, Diverged: as in `train`.
    """
    old = load_bundle(config.bundle)
    if "backbone" in old.spec.provenance:
        raise ConfigError(
            f"{old.path}: was fitted on cached features; add the source with fakeface features and run fakeface fit, "
            "or name --bundle lite0"
        )
    _check_directory(config, resume)
    before = join_datasets([open_dataset(path) for path in config.data])
    _check_fits(old, before)
    known = load_manifest(_manifest_path(config))
    _check_known(known, before, config)
    fresh = extend(known, merge([config.new], progress=progress))
    if placed is not None:
        placed(fresh)
    _check_enough(fresh, config.new)
    make_directory(config.output)
    _save_new(fresh, config.output / NEW_MANIFEST)
    Manifest(known.rows + fresh.rows).save(config.output / MANIFEST)
    added = build_dataset(
        config.output / NEW_MANIFEST,
        config.output / DATA,
        before.crop,
        whole_images=before.whole_images,
        detector=before.detector,
    )
    _check_cut(added, config.new)
    learned = {name for row in fresh.used() for name in (row.sample.source, f"{row.sample.source}/{row.sample.method}")}
    settings = training_config(config, old, added.path, learned=learned)
    candidate = finish(train(settings, reporter, resume=resume), settings)
    everything = open_dataset(settings.data)
    comparison = compare(
        _scored("old", old, everything), _scored("new", candidate, everything), resamples=config.resamples
    )
    losses = comparison.losses(config.max_loss)
    _write_comparison(config.output / "comparison.json", config, comparison, losses)
    bundle = None if losses else _accept(config, old, candidate, comparison)
    trained_on = old.spec.provenance.get("data", {}).get("manifest_sha256")
    return UpdateResult(
        candidate=candidate,
        comparison=comparison,
        losses=losses,
        bundle=bundle,
        other_data=trained_on != before.manifest_sha256,
        data=everything,
    )


def training_config(
    config: UpdateConfig, bundle: Bundle, new_data: Path, *, learned: Collection[str] = ()
) -> TrainConfig:
    """Returns the settings of the update's training: the bundle's augmentation and network, a low rate, old samples.

    Args:
        config: settings of the update.
        bundle: the bundle to train further.
        new_data: crops of the new source.
        learned: what is new, as `leave_out` would name it: what the bundle had left out is learned now.

    Raises:
        BundleError: the bundle does not say how it was trained.
    """
    spec = bundle.spec
    still_out = tuple(name for name in left_out(spec) if name not in learned)
    try:
        before = spec.provenance["config"]
        balance = before["loader"]["balance"]
        augment, degrade = AugmentConfig(**before["augment"]), DegradeConfig(**before["degrade"])
        pseudo = PseudoFakeConfig(**before["pseudo"])
    except (KeyError, TypeError) as error:
        raise BundleError(
            f"{bundle.path}: does not say how it was trained, or in settings that this release does not know: {error}; "
            "train it anew"
        ) from error
    network = {key: spec.model[key] for key in _names(NetworkConfig) if key in spec.model}
    return TrainConfig(
        data=(*config.data, new_data),
        output=config.output / TRAINING,
        model=str(spec.model["name"]),
        init_from=str(bundle.path),
        epochs=config.epochs,
        patience=config.epochs,  # there are few epochs, and the rate falls to zero by the last
        seed=config.seed,
        dtype=spec.model.get("dtype", "float32"),
        network=NetworkConfig(**network),
        optimizer=OptimizerConfig(learning_rate=config.learning_rate, schedule="cosine", warmup=0.1, clip_norm=1.0),
        loader=LoaderConfig(batch_size=config.batch_size, balance=balance, leave_out=still_out),
        augment=augment,
        degrade=degrade,
        pseudo=pseudo,
        new_share=config.share,
    )


def _names(kind: type) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def _check_directory(config: UpdateConfig, resume: bool) -> None:
    if (config.output / "bundle").exists():
        raise ConfigError(f"{config.output}: already contains a finished update; name another directory")
    if (config.output / TRAINING).exists() and not resume:
        raise ConfigError(f"{config.output}: already contains an update; add --resume or name another directory")


def _save_new(fresh: Manifest, path: Path) -> None:
    """Saves the new rows; the crops of an interrupted update belong to the rows that it had."""
    if path.exists() and load_manifest(path).fingerprint() != fresh.fingerprint():
        raise ConfigError(f"{path.parent}: was started with other new pictures; name another directory")
    fresh.save(path)


def _check_fits(bundle: Bundle, data: Dataset) -> None:
    if data.crop != bundle.spec.crop:
        raise ConfigError(
            f"{data.path} has crops {data.crop}, but the bundle takes {bundle.spec.crop}; name the data it was "
            "trained on"
        )
    for split in ("train", "validation", "calibration", TEST_SPLIT):
        if split not in data.sizes:
            raise DataError(f"{data.path}: has no {split} split, which an update needs; build the data with all splits")


def _manifest_path(config: UpdateConfig) -> Path:
    """Returns the named manifest, or the nearest one beside or above the newest crops."""
    if config.manifest is not None:
        return config.manifest
    newest = config.data[-1].resolve()
    for folder in (newest, *list(newest.parents)[:4]):
        if (folder / MANIFEST).is_file():
            return folder / MANIFEST
    raise ConfigError(f"{config.data[-1]}: no {MANIFEST} beside it; name the data's manifest with --manifest")


def _check_known(manifest: Manifest, data: Dataset, config: UpdateConfig) -> None:
    """Refuses a manifest of other data, which would let copies of test pictures into training."""
    splits = {row.id: row.split for row in manifest.used()}
    for split in data.sizes:
        for record in data.source(split, pictures=False):
            name = text_of(record["id"])
            if splits.get(name) != split:
                raise ConfigError(
                    f"{_manifest_path(config)}: does not list {name} in the {split} split, where {data.path} has it; "
                    "name the manifest that the data were built from"
                )


def _check_enough(fresh: Manifest, new: str) -> None:
    for split in ("train", TEST_SPLIT):
        if not fresh.used(split):
            reasons = sorted({row.left_out.split(":")[0] for row in fresh.left_out()})
            left = f" ({len(fresh.left_out())} excluded: {', '.join(reasons)})" if reasons else ""
            raise DataError(f"{new}: none of its pictures is in the {split} split{left}; add more pictures")


def _check_cut(added: Dataset, new: str) -> None:
    for split in ("train", TEST_SPLIT):
        if split not in added.sizes:
            raise DataError(f"{new}: no face was found in its {split} pictures; add more, or larger ones")


def _scored(name: str, bundle: Bundle, data: Dataset) -> Scored:
    predictions = predict(FaceClassifier(bundle), data, TEST_SPLIT)
    spec = bundle.spec
    return Scored(
        name=f"{name} {bundle.id[:12]}", predictions=predictions, calibration=spec.calibration, bands=spec.bands
    )


def _write_comparison(path: Path, config: UpdateConfig, comparison: Comparison, losses: Mapping[str, Estimate]) -> None:
    document = {
        "max_loss": config.max_loss,
        "losses": {source: dataclasses.asdict(loss) for source, loss in losses.items()},
        **comparison.to_dict(),
    }
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")


def _accept(config: UpdateConfig, old: Bundle, candidate: Bundle, comparison: Comparison) -> Bundle:
    """Writes the candidate under the run's name, with its origin."""
    update = {"from": {"name": old.spec.name, "id": old.id}, "new": config.new, "max_loss": config.max_loss}
    earlier: Sequence[Any] = old.spec.provenance.get("updates", ())
    provenance = {**candidate.spec.provenance, "updates": [*earlier, update]}
    spec = dataclasses.replace(candidate.spec, name=config.output.resolve().name, provenance=provenance)
    table = f"{comparison.result.caption}\n\n{comparison.table()}"
    return save_bundle(config.output / "bundle", spec, candidate.weights, card=model_card(spec, table=table))
