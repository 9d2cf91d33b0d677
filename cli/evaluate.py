"""`fakeface evaluate`: measures a bundle on a split of a data set."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from fakeface_jax.cli import NEEDS_TRAINING_EXTRA, quiet_libraries
from fakeface_jax.errors import ConfigError

Protocol = Literal[
    "within", "robustness", "reals-only", "face-size", "by-method", "unseen-method", "leave-one-source-out"
]

_RUN_PREFIX = "loso-"
"""Prefix of leave-one-source-out runs: each is a directory `loso-SOURCE` that contains `bundle`."""

_SCREEN = 24
"""Rows of a table that are printed; of a longer table only the rows of all sources together are shown."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measures a bundle on a split, per source and overall, with confidence intervals by group.

    Read the test split once per published table and choose nothing by it: models, epochs and settings are chosen on the
    validation split, thresholds on the calibration split.

    Attributes:
        data: data set of face crops, from `fakeface data build`.
        output: directory for report.html, report.md, metrics.json, predictions.parquet and the figures.
        bundle: the bundle to evaluate. If omitted: the bundled model.
        split: split of the data set to score.
        protocol: questions to answer; several are allowed. `within`: the main tables, always made. `robustness`:
            degraded crops (scores the split 20 more times). `reals-only`: false positives per source. `face-size`:
            results by the size of the face. `by-method`: each kind of fake against all reals. `unseen-method`: fakes
            that this bundle's training left out. `leave-one-source-out`: see `runs`.
        baseline: fit a logistic regression on power spectra to the same data and show its figures beside the model's.
        runs: directory of runs that were each trained without one source, as `loso-SOURCE/bundle`.
        resamples: number of bootstrap resamples.
        pictures: show the faces of the worst mistakes in report.html. Most data sets forbid sharing them: keep the
            report private.
        card: write the table into the bundle's model card.
    """

    data: Path
    output: Path
    bundle: Path | None = None
    split: str = "test"
    protocol: tuple[Protocol, ...] = ("within",)
    baseline: bool = False
    runs: Path | None = None
    resamples: int = 1000
    pictures: bool = False
    card: bool = False

    def __post_init__(self) -> None:
        if ("leave-one-source-out" in self.protocol) != (self.runs is not None):
            raise ConfigError("--protocol leave-one-source-out and --runs DIR belong together; name both or neither")

    def run(self) -> int:
        """Evaluates the bundle and returns the exit code."""
        quiet_libraries()
        try:
            from fakeface_jax.data.dataset import open_dataset
            from fakeface_jax.evaluation.evaluation_report import markdown_table, write_report
            from fakeface_jax.evaluation.held_out import left_out
            from fakeface_jax.evaluation.metrics import evaluate
            from fakeface_jax.evaluation.protocols import OVERALL
        except ImportError as error:
            raise ConfigError(f"{error.name} is missing; {NEEDS_TRAINING_EXTRA}") from error
        from fakeface_jax.classifier import FaceClassifier

        classifier = FaceClassifier.load(self.bundle)
        # Checked before anything is scored, which may take long.
        without, path = left_out(classifier.spec), classifier.bundle.path
        if "unseen-method" in self.protocol and not without:
            raise ConfigError(
                f"{path}: was trained on all sources, so it has seen every method; name a bundle that was trained "
                "without some of them"
            )
        runs = self._runs()
        if missing := sorted(runs.keys() & set(without)):
            raise ConfigError(
                f"{path}: was trained without {', '.join(missing)}, as {_RUN_PREFIX}{missing[0]} was; to compare the "
                "runs with it, name a --bundle that was trained on all sources"
            )
        dataset = open_dataset(self.data)
        with _Scorers(dataset) as scorers:
            model = scorers.model(classifier)
            predictions = model.predict(self.split)
            sections = self._sections(scorers, model, predictions, runs)
        spec = classifier.spec
        evaluation = evaluate(predictions, spec.calibration, spec.bands, resamples=self.resamples)
        context = {
            "model": f"{spec.name} ({spec.model['name']})",
            "bundle": classifier.bundle.id,
            "data": dataset.manifest_sha256,
            "split": self.split,
        }
        predictions.save(self.output / "predictions.parquet")
        title = f"{spec.name} on the {self.split} split"
        mistakes = scorers.pictures(self.split) if self.pictures else None
        paths = write_report(evaluation, self.output, title, context, sections=sections, mistakes=mistakes)
        print(markdown_table(evaluation))
        for section in sections:
            # The report has every row; on the terminal a screenful is enough.
            overall = section.only(source=OVERALL)
            shown = overall if len(section.rows) > _SCREEN and overall.rows else section
            print(f"\n{section.title}\n\n{shown.table()}")
        print(f"\nreport: {paths['report']}")
        if self.card:
            self._write_card(classifier.bundle, evaluation, sections)
        return 0

    def _sections(self, scorers: _Scorers, model: Any, predictions: Any, runs: Mapping[str, Path]) -> list[Any]:
        from fakeface_jax.evaluation import protocols

        models, clean = [model], [model.read(predictions)]
        if self.baseline:
            models.append(scorers.baseline(model.left_out))
            clean.append(models[1].scored(self.split))
        sections = [protocols.within(clean, resamples=self.resamples)] if self.baseline else []
        for name in dict.fromkeys(self.protocol):
            if name == "robustness":
                sections.append(protocols.robustness(models, clean, self.split, resamples=self.resamples))
            elif name == "reals-only":
                sections.append(protocols.reals_only(clean, resamples=self.resamples))
            elif name == "face-size":
                sections.append(protocols.face_size(clean, resamples=self.resamples))
            elif name == "by-method":
                sections.append(protocols.by_method(clean, resamples=self.resamples))
            elif name == "unseen-method":
                sections.append(protocols.unseen_method(models, clean, scorers.labelled, resamples=self.resamples))
            elif name == "leave-one-source-out":
                without = {source: scorers.without(source, path, self.baseline) for source, path in runs.items()}
                sections.append(
                    protocols.leave_one_source_out(
                        without, clean, scorers.labelled, self.split, resamples=self.resamples
                    )
                )
        return sections

    def _runs(self) -> dict[str, Path]:
        """Returns the bundles of `runs`, by the source that each was trained without."""
        if self.runs is None:
            return {}
        found = {
            path.parent.name.removeprefix(_RUN_PREFIX): path
            for path in sorted(self.runs.glob(f"{_RUN_PREFIX}*/bundle"))
        }
        if not found:
            raise ConfigError(
                f"{self.runs}: contains no {_RUN_PREFIX}SOURCE/bundle; train the runs first "
                "(fakeface train --leave-out SOURCE)"
            )
        return found

    def _write_card(self, bundle: Any, evaluation: Any, sections: Sequence[Any]) -> None:
        from fakeface_jax.bundle import save_bundle
        from fakeface_jax.evaluation.evaluation_report import markdown_table, verdict_table
        from fakeface_jax.training.card import model_card

        metrics = {**bundle.spec.metrics, "split": self.split, **evaluation.to_dict()}
        spec = dataclasses.replace(bundle.spec, metrics=metrics)
        table = f"{markdown_table(evaluation)}\n\nVerdicts:\n\n{verdict_table(evaluation)}"
        saved = save_bundle(bundle.path, spec, bundle.weights, card=model_card(spec, table=table, sections=sections))
        print(f"model card: {saved.path / 'README.md'}")


class _Scorers:
    """Models and baselines over one data set, with a bar that counts the faces they score."""

    def __init__(self, dataset: Any) -> None:
        from fakeface_jax.evaluation.batch_scoring import labelled_faces

        self._dataset = dataset
        self._spectra: dict[str, Any] = {}
        self.labelled: Mapping[str, Any] = {split: labelled_faces(dataset, split) for split in dataset.sizes}

    def __enter__(self) -> _Scorers:
        from tqdm import tqdm

        self._bar = tqdm(total=0, unit="face", disable=None)
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def model(self, classifier: Any, *, name: str | None = None) -> Any:
        """Returns a scorer for a bundle's model."""
        from fakeface_jax.evaluation.batch_scoring import predict
        from fakeface_jax.evaluation.held_out import left_out
        from fakeface_jax.evaluation.protocols import Scorer

        spec = classifier.spec

        def scores(split: str, *, keep: Any = None, transform: Any = None) -> Any:
            before = 0

            def progress(done: int, total: int) -> None:
                nonlocal before
                # How often faces will be scored is not known at the start.
                self._bar.total += total if before == 0 else 0
                self._bar.update(done - before)
                before = done

            return predict(classifier, self._dataset, split, keep=keep, transform=transform, progress=progress)

        return Scorer(
            name=name or spec.name,
            predict=scores,
            calibration=spec.calibration,
            bands=spec.bands,
            left_out=left_out(spec),
        )

    def baseline(self, leave_out: Sequence[str]) -> Any:
        """Returns the spectrum baseline, trained on the same data as the model."""
        from fakeface_jax.evaluation.protocols import Scorer
        from fakeface_jax.evaluation.spectrum import fit_baseline, read_spectra

        parts = [self._read(split) for split in ("train", "validation", "calibration")]
        fitted = fit_baseline(*parts, leave_out=leave_out)

        def scores(split: str, *, keep: Any = None, transform: Any = None) -> Any:
            if transform is not None:
                return fitted.predict(read_spectra(self._dataset, split, keep=keep, transform=transform))
            spectra = self._read(split)
            return fitted.predict(spectra if keep is None else spectra.select(keep))

        return Scorer(
            name="spectrum",
            predict=scores,
            calibration=fitted.calibration,
            bands=fitted.bands,
            left_out=fitted.left_out,
        )

    def without(self, source: str, path: Path, baseline: bool) -> list[Any]:
        """Returns a run that was trained without a source and, if wanted, the baseline without that source."""
        from fakeface_jax.classifier import FaceClassifier

        run = self.model(FaceClassifier.load(path), name=str(path))
        return [run, self.baseline([source])] if baseline else [run]

    def pictures(self, split: str) -> Callable[[str], Any]:
        """Returns a function that gives the crop of a face by its id."""
        source = self._dataset.source(split)
        rows = {name: row for row, name in enumerate(self.labelled[split].ids.tolist())}
        return lambda name: source[rows[name]]["image"] if name in rows else None

    def _read(self, split: str) -> Any:
        """Returns the spectra of a split, which are computed once."""
        from fakeface_jax.evaluation.spectrum import read_spectra

        if split not in self._spectra:
            self._spectra[split] = read_spectra(self._dataset, split)
        return self._spectra[split]
