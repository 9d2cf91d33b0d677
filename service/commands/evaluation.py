"""`fakeface evaluate`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from fakeface_jax.errors import ConfigError
from service.commands import NEEDS_TRAINING_EXTRA, quiet_libraries


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measures a bundle on a split: per source and overall, with intervals by group.

    Attributes:
        data: prepared crops, from `fakeface data build`.
        output: where metrics.json, report.md, predictions.parquet and the figures go.
        bundle: the bundle; the model that ships if not given.
        split: part of the data. The test split is for the published table alone: choose nothing by it.
        resamples: of the bootstrap.
        card: write the table into the bundle's model card.
    """

    data: Path
    output: Path
    bundle: Path | None = None
    split: str = "test"
    resamples: int = 1000
    card: bool = False

    def run(self) -> int:
        """Evaluates; the exit code."""
        quiet_libraries()
        try:
            from fakeface_jax.data.dataset import open_dataset
            from fakeface_jax.evaluation.inference import predict
            from fakeface_jax.evaluation.metrics import evaluate
            from fakeface_jax.evaluation.report import markdown_table, write_report
        except ImportError as error:
            raise ConfigError(f"{error.name} is missing; {NEEDS_TRAINING_EXTRA}") from error
        from tqdm import tqdm

        from fakeface_jax.classifier import FaceClassifier

        classifier = FaceClassifier.load(self.bundle)
        dataset = open_dataset(self.data)
        with tqdm(desc=self.split, unit="face", disable=None) as bar:

            def progress(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            predictions = predict(classifier, dataset, self.split, progress=progress)
        spec = classifier.spec
        evaluation = evaluate(predictions, spec.calibration, spec.bands, resamples=self.resamples)
        context = {
            "model": f"{spec.name} ({spec.model['name']})",
            "bundle": classifier.bundle.id,
            "data": dataset.manifest_sha256,
            "split": self.split,
        }
        predictions.save(self.output / "predictions.parquet")
        paths = write_report(evaluation, self.output, f"{spec.name} on the {self.split} split", context)
        print(markdown_table(evaluation))
        print(f"\nreport: {paths['report']}")
        if self.card:
            self._write_card(classifier.bundle, evaluation)
        return 0

    def _write_card(self, bundle: Any, evaluation: Any) -> None:
        from fakeface_jax.bundle import save_bundle
        from fakeface_jax.evaluation.report import markdown_table, verdict_table
        from fakeface_jax.training.card import model_card

        metrics = {"split": self.split, **evaluation.to_dict()}
        spec = dataclasses.replace(bundle.spec, metrics=metrics)
        table = f"{markdown_table(evaluation)}\n\nVerdicts:\n\n{verdict_table(evaluation)}"
        saved = save_bundle(bundle.path, spec, bundle.weights, card=model_card(spec, table=table))
        print(f"model card: {saved.path / 'README.md'}")
