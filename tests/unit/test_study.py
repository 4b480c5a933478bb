"""Studies without training: the statistics on simulated runs, the plan, the results folder, the report."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, tree
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from paddle_attn.errors import UserError
from paddle_attn.study import (
    Study,
    compare,
    holm,
    list_variants,
    load_study,
    plan_runs,
    run_study,
    write_report,
)
from paddle_attn.study.estimate import describe
from paddle_attn.study.figures import pareto_front, plot_differences, plot_pareto, plot_study_curves
from paddle_attn.study.results import MapScore, Results, Row
from paddle_attn.study.statistics import Pair, judge, t_probability, t_quantile
from paddle_attn.study.summary import compare_together
from paddle_attn.train.predictions import Prediction, read_predictions
from paddle_attn.train.tables import read_rows, to_csv

# ---- simulated studies: images of different difficulty, and effects of variant, fold and run on all of them


@dataclasses.dataclass(frozen=True)
class Simulation:
    """Runs whose true difference is known; the effects are on the logit of being right."""

    folds: int = 5
    seeds: int = 1
    images: int = 370  # of a fold
    run: float = 0.2  # standard deviation of a run's own effect
    fold: float = 0.1  # of a variant's own effect in a fold, as it was trained on other images
    image: float = 0.6  # of a variant's own effect on an image

    EASE, DIFFICULTY, ORDER = 2.2, 2.0, 0.2  # of the images; of a run's order of images, which pairs share

    def true_difference(self, effect: float) -> float:
        """The difference in top-1 over all images, folds and runs, integrated over the normal effects."""
        points, weights = np.polynomial.hermite_e.hermegauss(80)
        variance = self.DIFFICULTY**2 + self.image**2 + self.ORDER**2 + self.run**2 + self.fold**2
        logits = self.EASE + math.sqrt(variance) * points
        right, wrong = (1 / (1 + np.exp(-logits - shift)) for shift in (effect, 0))
        return float(weights @ (right - wrong) / weights.sum())

    def pairs(self, rng: np.random.Generator, effects: Sequence[float]) -> list[list[Pair]]:
        """The pairs of each variant with a baseline; `effects` are those of the variants."""
        variants, shifts = len(effects) + 1, np.array([0.0, *effects])
        found: list[list[Pair]] = [[] for _ in effects]
        for fold in range(self.folds):
            difficulty = rng.normal(self.EASE, self.DIFFICULTY, self.images)
            by_image = rng.normal(0, self.image, [variants, self.images])
            by_fold = rng.normal(0, self.fold, variants) + shifts
            for seed in range(self.seeds):
                by_run = rng.normal(0, self.run, variants) + rng.normal(0, self.ORDER) + by_fold
                logits = difficulty + by_image + by_run[:, None]
                right = (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(int)
                for number in range(1, variants):
                    found[number - 1].append(Pair(fold, seed, right[number] - right[0]))
        return found

    def coverage(self, studies: int, effect: float = 0.4) -> float:
        """How often the 95 % interval holds the true difference."""
        rng, true = np.random.default_rng(0), self.true_difference(effect)
        intervals = (compare(self.pairs(rng, [effect])[0]).interval for _ in range(studies))
        return sum(low <= true <= high for low, high in intervals) / studies


SIMULATIONS = {
    "5 runs: five folds": Simulation(),
    "10 runs: five folds, two seeds": Simulation(seeds=2),
    "25 runs: five folds, five seeds": Simulation(seeds=5),
    "5 runs: five folds, no effect of run or fold": Simulation(run=0, fold=0),
    "5 runs: five folds, large effects of runs": Simulation(run=0.6),
    "10 runs: one fold, ten seeds": Simulation(folds=1, seeds=10, fold=0),
    "25 runs: one fold, 25 seeds": Simulation(folds=1, seeds=25, fold=0),
}


@pytest.mark.parametrize("name", SIMULATIONS)
def test_the_interval_covers_the_true_difference(name: str):
    assert 0.92 <= SIMULATIONS[name].coverage(300) <= 0.98  # a standard error of 300 studies is 1.3 %


@pytest.mark.slow
@pytest.mark.parametrize("name", SIMULATIONS)
def test_the_interval_covers_the_true_difference_in_93_to_97_of_100_studies(name: str):
    assert 0.93 <= SIMULATIONS[name].coverage(1000) <= 0.97


def false_alarms(simulation: Simulation, studies: int, variants: int = 4) -> float:
    """How often a study says that one of several variants is better, when none is."""
    rng, alarms = np.random.default_rng(1), 0
    for _ in range(studies):
        found = [compare(pairs) for pairs in simulation.pairs(rng, [0.0] * variants)]
        corrected = holm([each.p for each in found])
        alarms += any(p < 0.05 and each.difference > 0 for p, each in zip(corrected, found, strict=True))
    return alarms / studies


def test_without_a_difference_none_is_found():
    assert false_alarms(Simulation(), 300) <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_without_a_difference_better_is_said_in_at_most_5_of_100_studies(seeds: int):
    assert false_alarms(Simulation(seeds=seeds), 1000) <= 0.05


def test_a_large_difference_is_found():
    (pairs,) = Simulation(run=0.05, fold=0).pairs(np.random.default_rng(0), [1.5])
    assert compare(pairs).interval[0] > 0 and compare(pairs).p < 0.01


def test_the_advised_number_of_runs_finds_the_difference():
    """A study of so many runs as advised by one that found nothing finds it in about four of five cases."""
    small, effect, rng = Simulation(fold=0), 0.15, np.random.default_rng(3)
    advice = [compare(small.pairs(rng, [effect])[0]).more_runs(max_folds=5) for _ in range(200)]
    seeds = round((5 + float(np.median(advice))) / 5)
    large = dataclasses.replace(small, seeds=seeds)
    found = [compare(large.pairs(rng, [effect])[0]).p < 0.05 for _ in range(60)]
    assert seeds > 1 and 0.6 <= np.mean(found) <= 0.95


# ---- the formulas


@pytest.mark.parametrize(
    ("df", "critical"),  # of published tables
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (24, 2.064), (120, 1.980), (1000, 1.962)],
)
def test_students_t_is_that_of_the_tables(df: int, critical: float):
    assert t_quantile(0.975, df) == pytest.approx(critical, abs=6e-4)
    assert t_probability(critical, df) == pytest.approx(0.05, abs=1e-4)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holms_correction_keeps_the_order_and_lies_between_none_and_bonferronis(values: list[float]):
    corrected = holm(values)
    for p, q in zip(values, corrected, strict=True):
        assert p <= q <= min(1, p * len(values)) or math.isclose(p, q)
    order = np.argsort(values, kind="stable")
    assert np.all(np.diff(np.array(corrected)[order]) >= 0)


def test_holms_correction_of_an_example():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.01, math.nan])[0] == 0.01 and math.isnan(holm([0.01, math.nan])[1])


def gains(right: int, wrong: int, images: int = 100) -> np.ndarray:
    return np.array([1] * right + [-1] * wrong + [0] * (images - right - wrong))


def test_a_comparison_is_students_t_over_the_folds():
    """Differences of 1, 2, 3 points: mean 2, standard deviation 1."""
    found = compare([Pair(fold, 0, gains(fold + 1, 0)) for fold in range(3)])
    assert found.difference == pytest.approx(0.02) and found.df == 2
    assert found.margin == pytest.approx(4.3027 * 0.01 / math.sqrt(3), rel=1e-4)


def test_one_pair_has_no_interval():
    found = compare([Pair(0, 0, gains(3, 1))])
    assert found.difference == pytest.approx(0.02)
    assert all(map(math.isnan, (found.p, found.margin, found.more_runs())))


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("images", [7, 10, 20])
def test_folds_and_seeds_that_agree_by_chance_are_not_certain(count: int, images: int):
    """Each run gains one image, another one each time."""
    by_run = [np.roll(gains(1, 0, images), number) for number in range(count)]
    for pairs in (
        [Pair(fold, 0, each) for fold, each in enumerate(by_run)],
        [Pair(0, seed, each) for seed, each in enumerate(by_run)],
    ):
        found = compare(pairs)
        assert found.error > 0.01 / count and found.p > 0.001
        assert found.interval[0] < 1 / images < found.interval[1]


def test_a_difference_that_is_no_number_has_no_verdict():
    unknown = np.array([0.0, math.nan])
    pairs = [Pair(fold, 0, unknown) for fold in range(3)]
    assert math.isnan(compare(pairs).p)
    assert judge({"x": pairs})["x"].verdict not in ("better", "worse")


def test_equal_predictions_are_not_told_apart():
    found = compare([Pair(fold, seed, gains(0, 0)) for fold in range(5) for seed in range(2)])
    assert found.p == 1 and found.interval == (0, 0)


# ---- the plan

BASE = str(ROOT / "configs" / "demo.yaml")


def test_runs_go_fold_by_fold_then_seed_by_seed():
    study = Study(base=BASE, attentions=(None, "simam"), folds=(0, 3), seeds=(0, 1), name="x")
    assert [run.name for run in plan_runs(study)] == [
        f"{variant}_fold{fold}_seed{seed}"
        for fold in (0, 3)
        for seed in (0, 1)
        for variant in ("none", "simam")
    ]


def test_without_folds_the_data_of_the_base_is_used_as_it_is():
    runs = plan_runs(Study(base=BASE, overrides={"data.root": "mine"}, folds=(), seeds=(0, 1), name="x"))
    assert [run.name for run in runs] == ["base_fold0_seed0", "base_fold0_seed1"]
    assert {run.config.data.root for run in runs} == {"mine"}


def test_each_fold_and_seed_starts_from_its_own_weights_and_all_variants_from_the_same():
    study = Study(base=BASE, attentions=(None, "se"), seeds=(0, 1, 2), name="x")
    seeds = {(run.fold, run.seed): run.config.train.seed for run in plan_runs(study)}
    assert len(set(seeds.values())) == len(seeds) == 15
    assert all(run.config.train.seed == seeds[run.fold, run.seed] for run in plan_runs(study))


def test_variants_are_the_product_of_all_lists_with_the_baseline_first():
    study = Study(
        base=BASE,
        overrides={"train.epochs": 3},
        models=("resnet18", "towernet"),
        attentions=(None, "cbam"),
        grid={"optim.lr": [1e-3, 0.1], "model.attn_pos": ["paper"]},
        baseline="towernet-none-lr=0.1",
        name="x",
    )
    variants = {variant.name: variant.config for variant in list_variants(study)}
    assert len(variants) == 8 and next(iter(variants)) == "towernet-none-lr=0.1"
    config = variants["resnet18-cbam-lr=0.001"]
    assert (config.model.name, config.model.attn, config.optim.lr) == ("resnet18", "cbam", 1e-3)
    assert config.train.epochs == 3 and config.optim.name == "adam"  # of the override and of the base


def test_named_sets_of_options_are_variants_and_multiply_the_lists():
    study = Study(
        base=BASE,
        overrides={"train.epochs": 3},
        attentions=(None, "simam"),
        variants={"long": {"train.epochs": 9, "optim.lr": 0.5}, "short": {}},
        name="x",
    )
    variants = {variant.name: variant.config for variant in list_variants(study)}
    assert list(variants) == ["none-long", "none-short", "simam-long", "simam-short"]
    assert [config.train.epochs for config in variants.values()] == [9, 3, 9, 3]
    assert variants["simam-long"].optim.lr == 0.5 and variants["simam-long"].model.attn == "simam"
    alone = dataclasses.replace(study, attentions=(), baseline="short")
    assert [variant.name for variant in list_variants(alone)] == ["short", "long"]
    single = dataclasses.replace(alone, variants={"short": {}})
    assert [variant.name for variant in list_variants(single)] == ["short"]  # as when others are added


def test_the_name_of_a_variant_fits_into_a_file_system():
    names = ["很长" * 45, "很长" * 46]
    study = Study(base=BASE, variants={name: {} for name in names}, name="x")
    found = [variant.name for variant in list_variants(study)]
    assert len(set(found)) == 2 and all(name.startswith("很长") for name in found)
    assert all(len(name.encode()) <= 100 for name in found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base": ""}, "base must be the path of a config"),
        ({"base": "none.yaml"}, "cannot read the config none.yaml"),
        ({"grid": {"optim.rate": [1]}}, "grid has 'optim.rate', which is no option"),
        ({"grid": {"optim.lr": 0.1}}, "grid.optim.lr must be a list of values, found 0.1"),
        ({"grid": {"optim.lr": ["x"]}}, "optim.lr must be a number, found 'x'"),
        ({"grid": {"model.attn": [None]}}, "list its values under models or attentions"),
        ({"variants": {"a": 3}}, "variants.a must be a set of options, found 3"),
        ({"variants": {"a": {1: 2}}}, "variants.a has '1', which is no option"),
        ({"variants": {"a": {"train": {"seed": 1}}}}, "variants.a has train.seed, which the study itself"),
        ({"variants": {"a": {"model": {"attn": "se"}}}}, "model.attn is in variants.a and in attentions"),
        ({"variants": {"a": {"data.root": "x"}}, "folds": ()}, "variants are compared on the same images"),
        ({"grid": {"data.root": ["x"]}, "folds": ()}, "variants are compared on the same images"),
        ({"reuse": ("../x",)}, "reuse must list names of studies, found '../x'"),
        ({"variants": {"a": {"optim.rate": 1}}}, "variants.a has 'optim.rate', which is no option"),
        ({"variants": {"a": {"train.seed": 1}}}, "variants.a has train.seed, which the study itself sets"),
        ({"variants": {"a": {"model.attn": None}}}, "model.attn is in variants.a and in attentions"),
        (
            {"variants": {"a": {"optim.lr": 1}}, "grid": {"optim.lr": [2]}},
            "optim.lr is in variants.a and in grid",
        ),
        ({"overrides": {"train.seed": 3}}, "overrides has train.seed, which the study itself sets"),
        ({"overrides": {"data.root": "x"}}, "overrides has data.root, which the study itself sets"),
        ({"attentions": (None, None)}, "the variant none twice"),
        ({"attentions": (None, "simm")}, "unknown attention 'simm': .*did you mean 'simam'"),
        ({"models": ("resnt18",)}, "unknown model 'resnt18': .*did you mean 'resnet18'"),
        ({"baseline": "simm"}, "unknown baseline 'simm': .*; did you mean 'simam'"),
        ({"folds": (0, 5)}, r"folds must be different whole numbers from 0 to 4, found \[0, 5\]"),
        ({"seeds": ()}, "seeds must have at least one number"),
        ({"name": "../x"}, "name must be the name of a folder"),
    ],
)
def test_a_mistake_in_a_study_is_one_sentence(options: dict, message: str):
    with pytest.raises(UserError, match=message):
        plan_runs(Study(**{"base": BASE, "attentions": (None, "simam"), "name": "x"} | options))


def test_no_runs_at_a_time_are_refused():
    study = Study(base=BASE, name="x")
    for call in (run_study, describe):
        with pytest.raises(UserError, match="--jobs must be at least 1, found 0"):
            call(study, 0)


def test_the_runs_are_listed_before_anything_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)  # there are no photographs here
    lines = describe(Study(base=BASE, attentions=(None, "simam"), folds=(0,), source="none", name="x"))
    assert [next(lines) for _ in range(3)] == [
        "to do  none_fold0_seed0",
        "to do  simam_fold0_seed0",
        "2 runs, 0 finished; 1 at a time",
    ]
    assert "timing a training step" in next(lines)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs" / "studies").glob("*.yaml")), ids=lambda path: path.stem
)
def test_the_studies_in_configs_can_be_planned(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    study = load_study(path)
    assert study.name == path.stem and len(plan_runs(study)) >= 2


def test_a_study_file_is_read_strictly(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text(f"base: {BASE}\nattention: [simam]\n")
    with pytest.raises(UserError, match=r"unknown config key 'attention'.*did you mean 'attentions'"):
        load_study(file)
    with pytest.raises(UserError, match=r"cannot read the study .*min.yaml.*did you mean '.*mine.yaml'"):
        load_study(tmp_path / "min.yaml")
    with pytest.raises(UserError, match="the config of a training: use it with paddle-attn train -c"):
        load_study("demo")


# ---- the results folder and the report


def fake_results(
    study: Study, folder: Path, right: Callable[[str, int], float], finished: int = 10**6
) -> Results:
    """Results as runs would leave them, with 40 images in each fold of which some are predicted right."""
    results, plan = Results(folder), plan_runs(study)
    folder.mkdir(parents=True)
    for number, run in enumerate(plan[:finished]):
        rng = np.random.default_rng(number)
        hits = rng.random(40) < right(run.variant, run.fold)
        predictions = [
            Prediction(f"猫/{run.fold}_{index}.jpg", "9", "猫", "猫" if hit else "狗", 0.5, 0.5)
            for index, hit in enumerate(hits)
        ]
        (folder / "p.csv").write_text(to_csv(predictions, Prediction), encoding="utf-8")
        lines = [f"{epoch},{hits.mean() * epoch / 3}\n" for epoch in (1, 2, 3)]
        (folder / "h.csv").write_text("".join(["epoch,eval_top1\n", *lines]))
        row = Row(
            run.name, run.variant, run.fold, run.seed, float(hits.mean()), 1.0, 0.5, 40, 1000, 10**6, 3,
            run.config_hash, "", "0.1.0", "", "a, machine", 2, 1.25 + number,
        )  # fmt: skip
        results.add(row, folder / "h.csv", folder / "p.csv", plan)
    for name in ("p.csv", "h.csv"):
        (folder / name).unlink()
    return results


STUDY = Study(base=BASE, attentions=(None, "simam", "se", "cbam"), name="example")
ACCURACY = {"none": 0.5, "simam": 0.95, "se": 0.1, "cbam": 0.5}


def test_the_report_says_better_worse_and_cannot_be_told_apart(tmp_path: Path):
    results = fake_results(STUDY, tmp_path / "r", lambda variant, fold: ACCURACY[variant])
    text = write_report(STUDY, results).read_text()
    assert "20 runs of 20: 4 variants, 5 folds, 1 seed for each" in text
    assert "**simam** is better than none: +" in text and "**se** is worse than none: -" in text
    assert "**cbam** cannot be told apart from none with these runs" in text and "would" in text
    assert "| none | 5 | " in text and "| baseline |" in text
    for name in ("curves.png", "differences.png", "minutes.png", "pareto.png"):
        picture = np.asarray(Image.open(tmp_path / "r" / name).convert("L"))
        assert 0 < (picture < 200).mean() < 0.5
    assert "| simam | a, machine | 2 | 5 | " in (tmp_path / "r" / "timing.md").read_text()


def test_all_variants_together_are_compared_in_the_folds_that_all_have_finished(tmp_path: Path):
    right = {"none": 0.5, "simam": 0.8, "se": 0.7, "cbam": 0.6}
    results = fake_results(STUDY, tmp_path / "r", lambda variant, fold: right[variant], finished=14)
    found = compare_together(STUDY, results)  # of folds 0, 1 and 2; fold 3 has two runs
    rows = results.rows()
    top1 = {name: [rows[f"{name}_fold{fold}_seed0"].top1 for fold in range(3)] for name in right}
    gains = np.mean([top1["simam"], top1["se"], top1["cbam"]], axis=0) - top1["none"]
    assert found.pairs == 3 and found.difference == pytest.approx(gains.mean())
    assert found.margin == pytest.approx(t_quantile(0.975, 2) * gains.std(ddof=1) / math.sqrt(3))
    few = fake_results(STUDY, tmp_path / "few", lambda variant, fold: 0.5, finished=3)
    assert compare_together(STUDY, few) is None


def test_the_report_compares_the_maps_of_the_runs_that_were_measured(tmp_path: Path):
    results = fake_results(STUDY, tmp_path / "r", lambda variant, fold: 0.5)
    for run in plan_runs(STUDY):
        if run.variant in ("none", "simam") and run.fold:  # the weights of fold 0 are lost
            insertion = 0.6 + (0.1 + 0.002 * run.fold) * (run.variant == "simam")
            scores = [
                MapScore(each.image, 0.2, insertion, 0.4, 0.5) for each in results.predictions(run.name)
            ]
            results.add_map_scores(run.name, scores)
    _, _, section = write_report(STUDY, results).read_text().partition("## How faithful the maps are")
    assert "| none | 4 | 0.200 | 0.600 | 0.300 | – | – | – | – | baseline |" in section
    # the folds' differences are 0.102, 0.104, 0.106 and 0.108: 3.182 standard errors of 0.00129 are 0.0041
    line = "| simam | 4 | 0.200 | 0.705 | 0.405 | 4 | +0.105 | +0.101 … +0.109 | < 0.001 | better |"
    assert line in section and "se" not in section.split("Grad-CAM")[0].split()


def measure(results: Results, runs: Sequence[str], insertion: float = 0.6) -> None:
    """Map scores of finished runs, as `--faithfulness` would leave them."""
    for run in runs:
        images = [each.image for each in results.predictions(run)]
        results.add_map_scores(run, [MapScore(image, 0.2, insertion, 0.4, 0.5) for image in images])


def test_maps_without_a_pair_have_no_verdict(tmp_path: Path):
    results = fake_results(STUDY, tmp_path / "r", lambda variant, fold: 0.5)
    measure(results, ["none_fold0_seed0", "simam_fold1_seed0"])
    section = write_report(STUDY, results).read_text().partition("## How faithful the maps are")[2]
    assert "| simam | 1 | 0.200 | 0.600 | 0.300 | – | – | – | – | no pair |" in section


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: lines[:-1],  # cut short
        lambda lines: lines[:1],  # only the names of the columns
        lambda lines: [lines[0], *lines[:0:-1]],  # in another order
        lambda lines: [*lines[:5], lines[5].replace("0.2", "nan"), *lines[6:]],
        lambda lines: [*lines[:5], lines[5].replace("0.2", "inf"), *lines[6:]],
        lambda lines: [*lines[:5], lines[5].replace("0.2", "-0.1"), *lines[6:]],
        lambda lines: [*lines[:5], "nonsense", *lines[6:]],
    ],
)
def test_damaged_map_scores_are_refused(tmp_path: Path, change: Callable[[list[str]], list[str]]):
    results = fake_results(STUDY, tmp_path / "r", lambda variant, fold: 0.5)
    measure(results, ["none_fold0_seed0"])
    file = results.map_scores_file("none_fold0_seed0")
    lines = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join(change(lines)) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"none_fold0_seed0.csv is damaged"):
        write_report(STUDY, results)


def test_a_run_that_is_done_again_has_no_map_scores_yet(tmp_path: Path):
    results = fake_results(STUDY, tmp_path / "r", lambda variant, fold: 0.5)
    name = "none_fold0_seed0"
    measure(results, [name])
    results.add(
        results.rows()[name], results.history_file(name), results.predictions_file(name), plan_runs(STUDY)
    )
    assert results.map_scores(name) == [] and name in results.rows()


def test_accuracy_over_time_is_drawn_of_a_machine_that_did_runs_of_every_variant(tmp_path: Path):
    results = fake_results(STUDY, tmp_path / "r", lambda variant, fold: 0.5)
    fast = {f"{variant}_fold{fold}_seed0" for variant in ("none", "simam", "se") for fold in range(1, 5)}
    rows = [
        dataclasses.replace(row, machine="another machine" if row.run in fast else "shared machine")
        for row in results.rows().values()
    ]
    runs = tmp_path / "r" / "runs.csv"
    runs.write_text(to_csv(rows, Row))
    write_report(STUDY, results)
    timing = (tmp_path / "r" / "timing.md").read_text()
    assert "minutes of training, shared machine; 2 threads a run](minutes.png)" in timing
    assert (tmp_path / "r" / "minutes.png").exists()
    rows = [
        dataclasses.replace(row, machine=f"machine {row.variant == 'none'}")
        for row in results.rows().values()
    ]
    runs.write_text(to_csv(rows, Row))
    write_report(STUDY, results)
    assert "No machine did runs of every variant" in (tmp_path / "r" / "timing.md").read_text()
    assert not (tmp_path / "r" / "minutes.png").exists()


def test_the_report_names_the_fewest_and_the_most_epochs(tmp_path: Path):
    results = fake_results(STUDY, tmp_path / "r", lambda variant, fold: 0.5)
    assert "for each; 3 epochs." in write_report(STUDY, results).read_text()
    text = (tmp_path / "r" / "runs.csv").read_text()
    (tmp_path / "r" / "runs.csv").write_text(text.replace(",1000000,3,", ",1000000,9,", 2))
    assert "for each; 3 to 9 epochs." in write_report(STUDY, results).read_text()


def test_the_same_results_give_the_same_report_and_pictures(tmp_path: Path):
    for name in "ab":
        write_report(STUDY, fake_results(STUDY, tmp_path / name, lambda variant, fold: ACCURACY[variant]))
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_a_study_that_was_cut_short_is_reported_over_its_pairs(tmp_path: Path):
    results = fake_results(STUDY, tmp_path / "r", lambda variant, fold: ACCURACY[variant], finished=6)
    text = write_report(STUDY, results).read_text()
    assert "6 runs of 20" in text and "**se** and none have one pair of runs" in text
    results = fake_results(STUDY, tmp_path / "one", lambda variant, fold: 0.5, finished=1)
    assert "1 run of 20: 1 variant" in write_report(STUDY, results).read_text()


def test_without_finished_runs_there_is_no_report(tmp_path: Path):
    with pytest.raises(UserError, match="holds no finished runs"):
        write_report(STUDY, Results(tmp_path))


def test_without_a_run_of_the_baseline_nothing_is_compared(tmp_path: Path):
    results = fake_results(STUDY, tmp_path / "r", lambda variant, fold: 0.5, finished=3)
    results.predictions_file("none_fold0_seed0").unlink()
    with pytest.raises(UserError, match="no finished run of none, with which the others are compared"):
        write_report(STUDY, results)


def test_runs_on_other_images_are_not_compared(tmp_path: Path):
    results = fake_results(STUDY, tmp_path / "r", lambda variant, fold: 0.5)
    file = results.predictions_file("se_fold2_seed0")
    file.write_text(file.read_text(encoding="utf-8").replace("2_7.jpg", "other.jpg"), encoding="utf-8")
    with pytest.raises(UserError, match="se_fold2_seed0 and the baseline were tested on different images"):
        write_report(STUDY, results)


def cut(results: Results) -> None:
    file = results.predictions_file("se_fold2_seed0")
    file.write_text(
        "".join(file.read_text(encoding="utf-8").splitlines(keepends=True)[:-9]), encoding="utf-8"
    )


def say_nan(results: Results) -> None:
    file = results.folder / "runs.csv"
    rows = [dataclasses.replace(row, top1=float("nan")) for row in results.rows().values()]
    file.write_text(to_csv(rows, Row))


def rename_a_class(results: Results) -> None:
    file = results.predictions_file("se_fold2_seed0")
    file.write_text(file.read_text(encoding="utf-8").replace(",猫,猫,", ",猫,Cat,"), encoding="utf-8")


@pytest.mark.parametrize("change", [cut, say_nan, rename_a_class])
def test_a_row_that_contradicts_its_predictions_is_an_error(
    tmp_path: Path, change: Callable[[Results], None]
):
    results = fake_results(STUDY, tmp_path / "r", lambda variant, fold: 0.5)
    change(results)
    with pytest.raises(UserError, match=r"has \d+ right of \d+ images, expected .* of 40 as in .*runs\.csv"):
        write_report(STUDY, results)


def test_a_study_may_grow_but_not_change(tmp_path: Path):
    results = fake_results(STUDY, tmp_path / "r", lambda variant, fold: 0.5, finished=8)
    results.write_study(STUDY)
    larger = dataclasses.replace(STUDY, seeds=(0, 1), attentions=(*STUDY.attentions, "eca"))
    results.check(larger, plan_runs(larger))
    changed = dataclasses.replace(STUDY, overrides={"optim.lr": 0.5})
    with pytest.raises(
        UserError, match=r"with other options \(overrides was \{\}, found \{'optim.lr': 0.5\}\)"
    ):
        results.check(changed, plan_runs(changed))
    smaller = dataclasses.replace(STUDY, attentions=(None, "simam"))
    with pytest.raises(
        UserError, match="holds the finished run se_fold0_seed0, which this study does not have"
    ):
        results.check(smaller, plan_runs(smaller))


REUSING = dataclasses.replace(
    STUDY, attentions=(), variants={"gate": {"model.attn": "simam"}}, name="b", reuse=("a",)
)


@pytest.fixture
def reused(tmp_path: Path) -> Results:
    """The finished study `a`, on a split of the checksum 1."""
    results = fake_results(STUDY, tmp_path / "a", lambda variant, fold: ACCURACY[variant])
    rows = [dataclasses.replace(row, data_hash="1") for row in results.rows().values()]
    (tmp_path / "a" / "runs.csv").write_text(to_csv(rows, Row))
    (tmp_path / "b").mkdir()
    return results


def copied(folder: Path, study: Study = REUSING, data_hash: str = "1") -> list[str]:
    hashes = dict.fromkeys(study.folds, data_hash) | {3: "other photographs", 4: ""}
    return list(Results(folder).copy_reusable(study, plan_runs(study), hashes))


def test_the_runs_of_a_study_in_reuse_are_copied(reused: Results, tmp_path: Path):
    """The same options, seed and split, whatever the studies call it."""
    lines = copied(tmp_path / "b")
    assert [line.partition(" ")[0] for line in lines] == [f"gate_fold{fold}_seed0" for fold in range(3)]
    assert f"copied from {tmp_path / 'a'}: simam_fold0_seed0, made by 0.1.0" in lines[0]
    results = Results(tmp_path / "b")
    for fold in range(3):
        row, source = results.rows()[f"gate_fold{fold}_seed0"], reused.rows()[f"simam_fold{fold}_seed0"]
        assert row == dataclasses.replace(source, run=row.run, variant="gate")
        assert results.history(row.run) == reused.history(source.run)
        assert results.predictions(row.run) == reused.predictions(source.run)
    assert copied(tmp_path / "b") == []


@pytest.mark.parametrize(
    "changed",
    [
        {"reuse": ()},
        {"overrides": {"train.epochs": 7}},
        {"seeds": (1,)},
    ],
)
def test_runs_that_differ_are_not_copied(reused: Results, tmp_path: Path, changed: dict):
    assert copied(tmp_path / "b", dataclasses.replace(REUSING, **changed)) == []
    assert copied(tmp_path / "b", REUSING, data_hash="2") == []


@pytest.mark.parametrize("start", [{"model.weights": "start.pdparams"}, {"model.pretrained": True}])
def test_runs_from_other_weights_are_not_copied(tmp_path: Path, start: dict):
    """The options are the same; the file, or the weights of another version of the package, may not be."""
    first, second = (dataclasses.replace(study, overrides=start) for study in (STUDY, REUSING))
    results = fake_results(first, tmp_path / "a", lambda variant, fold: ACCURACY[variant])
    rows = [dataclasses.replace(row, data_hash="1") for row in results.rows().values()]
    (tmp_path / "a" / "runs.csv").write_text(to_csv(rows, Row))
    (tmp_path / "b").mkdir()
    assert copied(tmp_path / "b", second) == []


@pytest.mark.parametrize("file", ["history_file", "predictions_file"])
@pytest.mark.parametrize("text", ["", "epoch", "nonsense,\n1,2\n", "x" * 200_000])
def test_damaged_results_are_not_copied(reused: Results, tmp_path: Path, file: str, text: str):
    getattr(reused, file)("simam_fold0_seed0").write_text(text)
    with pytest.raises(UserError, match="is damaged"):
        copied(tmp_path / "b")
    assert Results(tmp_path / "b").rows() == {}


def test_a_study_in_reuse_without_results_has_nothing_to_copy(tmp_path: Path):
    assert copied(tmp_path / "b") == [
        f"nothing to copy from the study a: {tmp_path / 'a'} holds no finished run"
    ]
    assert not (tmp_path / "a").exists()


def test_rows_are_read_back_and_a_damaged_line_is_named(tmp_path: Path):
    results = fake_results(STUDY, tmp_path / "r", lambda variant, fold: 0.5)
    file = tmp_path / "r" / "runs.csv"
    rows = list(read_rows(file, Row))
    assert to_csv(rows, Row) == file.read_text() and [row.run for row in rows] == list(results.rows())
    file.write_text(file.read_text().replace("cbam,0,0,", "cbam,zero,0,"))
    with pytest.raises(UserError, match=r"runs.csv is damaged at line 5"):
        results.rows()


def test_predictions_with_the_columns_of_the_first_studies_are_read(tmp_path: Path):
    (tmp_path / "old.csv").write_text("path,true,predicted,p_true,p_predicted\na/1.jpg,a,b,0.25,0.5\n")
    assert read_predictions(tmp_path / "old.csv") == [Prediction("a/1.jpg", "", "a", "b", 0.5, 0.25)]


def test_a_run_without_its_predictions_is_not_finished(tmp_path: Path):
    results = fake_results(STUDY, tmp_path / "r", lambda variant, fold: 0.5)
    results.predictions_file("se_fold2_seed0").unlink()
    assert "se_fold2_seed0" not in results.rows() and len(results.rows()) == 19


# ---- the pictures


def test_the_pareto_front_has_what_none_dominates():
    assert pareto_front([(3, 5), (1, 2), (2, 1), (2, 4), (4, 5)]) == [(1, 2), (2, 4), (3, 5)]


@pytest.mark.parametrize("count", [1, 20])
def test_any_number_of_variants_with_any_name_can_be_drawn(tmp_path: Path, count: int):
    names = ["注意力", "a$_b", *(f"variant {index}" for index in range(18))][:count]
    plot_study_curves({name: [[0.1, 0.5], [0.2]] for name in names}, "研究", tmp_path / "c.png")
    plot_differences([(name, 0.1, 0.05, 0.2, "better") for name in names], "none", "x", tmp_path / "d.png")
    plot_pareto([(name, 0.5, 0.1, 10**9, 10**6) for name in names], "x", tmp_path / "p.png")
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("name", ["demo", "caltech101-16"])
def test_a_shipped_study_is_valid_and_headed_by_its_command(name: str):
    path = ROOT / "configs" / "studies" / f"{name}.yaml"
    study = load_study(path)
    runs = plan_runs(study)
    assert len(runs) == len(list_variants(study)) * len(study.folds) * len(study.seeds) > 1
    assert path.read_text().startswith(f"# paddle-attn study -c studies/{name}")
