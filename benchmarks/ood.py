"""Out-of-distribution detection on Fashion-MNIST, its verdicts, and what they cost.

Networks are trained on classes 0 to 7, five times, and kept in .bench-cache. pytorch-ood needs
torchvision, so it is not run here: its figures are those measured once on a network of the same
make (three convolutions, 67,512 weights, 5,000 rows to fit, 500 of each foreign set, and notMNIST
among them), and are marked as published. What it does one by one - one forward pass a detector -
is measured with our own detectors.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LinearRegression, LogisticRegression

import trustml
from _bench import Section, run_sections, show, target
from _measure import status_megabytes
from _ood_tasks import Images, images, trained
from trustml import ood
from trustml.evidence import classifier_test
from trustml.ood._detector import catalogue
from trustml.ood.metrics import auroc, fpr_at_95_tpr_id

HERE = Path(__file__).parent
# Published: near, MNIST, digits, Gaussian, uniform, rotated, blurred; mean FPR95 (ID), notMNIST
# included.
PUBLISHED = {
    "pytorch-ood GMM": ([0.921, 0.986, 0.917, 0.982, 0.989, 0.975, 0.958], 0.19),
    "oodeel Gram": ([0.830, 0.926, 0.996, 1.000, 1.000, 0.901, 1.000], 0.19),
    "pytorch-ood MultiMahalanobis": ([0.892, 0.984, 0.827, 1.000, 1.000, 0.930, 0.944], 0.28),
    "pytorch-ood ViM": ([0.879, 0.817, 0.963, 0.991, 0.994, 0.969, 0.954], 0.23),
    "pytorch-ood Mahalanobis": ([0.910, 0.989, 0.765, 0.992, 0.994, 0.938, 0.944], 0.28),
    "oodeel ReAct + energy": ([0.947, 0.923, 0.965, 0.878, 0.856, 0.932, 0.857], 0.54),
    "pytorch-ood KNN": ([0.775, 0.658, 0.970, 1.000, 1.000, 0.932, 0.974], 0.28),
    "pytorch-ood RMD": ([0.918, 0.910, 0.890, 0.724, 0.785, 0.946, 0.866], 0.58),
    "pytorch-ood energy": ([0.770, 0.341, 0.978, 0.928, 0.902, 0.842, 0.725], 0.69),
    "pytorch-ood MSP": ([0.789, 0.299, 0.922, 0.934, 0.920, 0.851, 0.787], 0.65),
}
GRADIENTS = {"inputs", "gradients"}


def seeds(quick: bool) -> range:
    """Training seeds."""
    return range(1 if quick else 5)


def wrapped(seed: int, data: Images) -> trustml.Model:
    """A network, as it was trained."""
    return trustml.wrap(trained(seed, data), task="classification")


def separation(quick: bool) -> Section:
    """Fused beside its single members and the published table, on seven foreign sets."""
    data = images()
    found: dict[str, dict[str, list[list[float]]]] = {}
    weights = []
    for seed in seeds(quick):
        model = wrapped(seed, data)
        contenders = [
            ood.Fused(model), ood.Gmm(model), ood.Mahalanobis(model),
            ood.RelativeMahalanobis(model), ood.LastLayerLaplace(model), ood.Gram(model),
            ood.Fdbd(model), ood.Vim(model), ood.Energy(model), ood.Msp(model),
        ]  # fmt: skip
        suite = ood.Suite(model, contenders).fit(data.train, data.labels)
        weights.append(suite.detectors_["Fused"].weights_)
        inside = suite.score(data.test)
        outside = {name: suite.score(rows) for name, rows in data.foreign.items()}
        for detector in inside.columns:
            kept = found.setdefault(detector, {"auroc": [], "fpr": []})
            pairs = [(inside[detector], scores[detector]) for scores in outside.values()]
            kept["auroc"].append([auroc(*pair) for pair in pairs])
            kept["fpr"].append([fpr_at_95_tpr_id(*pair) for pair in pairs])
    rows = []
    for name, kept in found.items():
        a, f = np.mean(kept["auroc"], axis=0), np.mean(kept["fpr"])
        rows.append((name, a, f))
    rows += [(f"{name} (published)", np.array(a), f) for name, (a, f) in PUBLISHED.items()]
    rows.sort(key=lambda row: -row[1].mean())
    show(
        f"AUROC, mean of {len(seeds(quick))} trainings",
        ["detector", *data.foreign, "mean", "worst", "FPR95 (ID)"],
        [
            [name, *(f"{x:.3f}" for x in a), f"{a.mean():.3f}", f"{a.min():.3f}", f"{f:.2f}"]
            for name, a, f in rows
        ],
    )
    fused = np.array(found["Fused"]["auroc"])
    fpr = np.array(found["Fused"]["fpr"])
    mean = fused.mean()
    error = fused.mean(axis=1).std(ddof=int(len(fused) > 1)) / len(fused) ** 0.5
    worst = float(fused.mean(axis=0).min())
    near = float(fused[:, 0].mean())
    published = max(np.mean(a) for a, _ in PUBLISHED.values())
    targets = [
        target("Fused, mean AUROC", ">= 0.975", float(mean), mean >= 0.975,
               f"standard error over trainings {error:.4f}; best published {published:.3f}"),
        target("Fused, worst set", ">= 0.92", worst, worst >= 0.92,
               f"of single trainings {fused.min():.3f}"),
        target("Fused, mean FPR95 (ID)", "<= 0.08", float(fpr.mean()), fpr.mean() <= 0.08,
               f"by training {fpr.mean(axis=1).min():.3f} to {fpr.mean(axis=1).max():.3f}"),
        target("Fused, near", ">= 0.93", near, near >= 0.93,
               f"by training {fused[:, 0].min():.3f} to {fused[:, 0].max():.3f}"),
    ]  # fmt: skip
    published_rows = {name: {"auroc": a, "fpr": f} for name, (a, f) in PUBLISHED.items()}
    return {
        "sets": list(data.foreign), "detectors": found, "weights": weights,
        "published": published_rows,
    }, targets  # fmt: skip


def verdicts(quick: bool) -> Section:
    """False alarms and false discoveries of all detectors on rows not seen before."""
    data = images()
    model = wrapped(0, data)
    splits, n_cal, n_in, n_out = 40 if quick else 400, 999, 450, 50
    suite = ood.Suite(model, fast_kinds()).fit(data.train[:3000], data.labels[:3000])
    pool = torch.cat([data.test, data.calibration])
    labels = torch.cat([data.test_labels, data.calibration_labels]).numpy()
    table, strange = suite.score(pool), suite.score(data.foreign["near"])
    scores = {name: np.asarray(table[name]) for name in table.columns}
    scores["Fused, rounded"] = np.round(scores["Fused"])  # ties
    foreign = {name: np.asarray(strange[name]) for name in strange.columns}
    foreign["Fused, rounded"] = np.round(foreign["Fused"])
    alarms: dict[str, list[float]] = {name: [] for name in scores}
    shares, power = ({name: [] for name in scores} for _ in range(2))
    classwise = []
    rng = np.random.default_rng(0)
    for _ in range(splits):
        order = rng.permutation(len(pool))
        cal, new = order[:n_cal], order[n_cal : n_cal + n_in]
        out = rng.permutation(len(foreign["Fused"]))[:n_out]
        for name, score in scores.items():
            calibration = ood.Calibration(score[cal])
            alarms[name].append(calibration.alarm(score[new], 0.05).mean())
            batch = np.concatenate([score[new], foreign[name][out]])
            hits = calibration.discoveries(batch, 0.1)
            shares[name].append(hits[:n_in].sum() / max(hits.sum(), 1))
            power[name].append(hits[n_in:].mean())
        within = ood.Calibration(scores["Fused"][cal], labels[cal])
        p = within.p_values(scores["Fused"][new])
        classwise.append([(p[labels[new] == k] <= 0.05).mean() for k in range(8)])

    def off(found: dict[str, list[float]], level: float) -> tuple[str, float]:
        """The detector that is farthest above the level, in standard errors."""
        z = {n: (np.mean(v) - level) / (np.std(v) / splits**0.5 + 1e-12) for n, v in found.items()}
        name = max(z, key=lambda n: z[n])
        return name, float(z[name])

    rows = [
        [name, f"{np.mean(alarms[name]):.4f}", f"{np.mean(shares[name]):.4f}",
         f"{np.mean(power[name]):.3f}"]
        for name in scores
    ]  # fmt: skip
    show(
        f"{splits} splits: {n_cal} rows calibrate, {n_in} known and {n_out} near rows are judged",
        ["detector", "false alarms at 0.05", "FDR at 0.1", "power"], rows,
    )  # fmt: skip
    by_class = np.array(classwise)
    k = int(by_class.mean(axis=0).argmax())
    z_class = (by_class[:, k].mean() - 0.05) / (by_class[:, k].std() / splits**0.5)
    (who, z_alarm), (whose, z_fdr) = off(alarms, 0.05), off(shares, 0.1)
    note = f"{len(scores)} detectors, one with ties; most: {{}}"
    targets = [
        target("false alarms at 0.05, standard errors above", "<= 3", z_alarm, z_alarm <= 3,
               note.format(f"{who} {np.mean(alarms[who]):.4f}")),
        target("FDR at 0.1, standard errors above", "<= 3", z_fdr, z_fdr <= 3,
               note.format(f"{whose} {np.mean(shares[whose]):.4f}")),
        target("false alarms at 0.05 within classes, standard errors above", "<= 3",
               float(z_class), z_class <= 3, f"Fused, class {k}: {by_class[:, k].mean():.4f}"),
    ]  # fmt: skip
    return {
        "alarms": {n: float(np.mean(v)) for n, v in alarms.items()},
        "fdr": {n: float(np.mean(v)) for n, v in shares.items()},
        "power": {n: float(np.mean(v)) for n, v in power.items()},
        "by_class": by_class.mean(axis=0).tolist(),
    }, targets


def scaling(quick: bool) -> Section:
    """Scores of features multiplied by 1e-4 and 1e4, beside those of the features."""
    data = images()
    model = wrapped(0, data)
    features = np.asarray(model.features(data.train[:3000]).double())
    labels = data.labels[:3000].numpy()
    new = np.asarray(model.features(data.test[:500]).double())
    kinds = ["Mahalanobis", "RelativeMahalanobis", "Gmm", "Knn", "Gram"]
    plain = trustml.precomputed("features")
    rows, moved = [], {}
    for name in kinds:
        kind = catalogue()[name]
        before = kind(plain).fit(features, labels).score(new)
        changes = []
        for factor in (1e-4, 1e4):
            after = kind(plain).fit(features * factor, labels).score(new * factor)
            changes.append(float(np.abs(after - before).max() / np.abs(before).max()))
        moved[name] = max(changes)
        rows.append([name, *(f"{c:.1e}" for c in changes)])
    show("Largest change of a score, relative", ["detector", "x 1e-4", "x 1e4"], rows)
    worst = max(moved.values())
    return {"change": moved}, [
        target("features scaled by 1e-4 and 1e4, relative change", "<= 1e-6", worst, worst <= 1e-6,
               "pytorch-ood's rank correlation falls to 0.42 (published)")
    ]  # fmt: skip


def cost(quick: bool) -> Section:
    """All detectors in one pass, beside a forward pass for each."""
    data = images()
    model = wrapped(0, data)
    n = 500 if quick else 2000
    X, y, Q = data.train[:n], data.labels[:n], data.test[:1000]
    kinds = [kind for kind in fast_kinds() if kind is not ood.Fused]

    def together() -> None:
        ood.Suite(model, kinds).fit(X, y).score(Q)

    def one_by_one() -> None:
        for kind in kinds:
            kind(model).fit(X, y).score(Q)

    def passing() -> None:
        for _ in model.observations(Q):
            pass

    (all_s, all_mb), (single_s, single_mb) = (measured(f) for f in (together, one_by_one))
    suite = ood.Suite(model, kinds).fit(X, y)
    # In turns, the best of five: what else runs on the machine slows either.
    turns = [(measured(passing)[0], measured(lambda: suite.score(Q))[0]) for _ in range(5)]
    pass_s, score_s = (min(took) for took in zip(*turns, strict=True))
    passes, ratio = score_s / pass_s, single_s / all_s
    show(
        f"{len(kinds)} detectors, fitted on {n} rows, 1000 scored",
        ["how", "CPU s", "peak MB"],
        [["one pass", f"{all_s:.2f}", f"{all_mb:.0f}"],
         ["one by one", f"{single_s:.2f}", f"{single_mb:.0f}"],
         ["scores alone", f"{score_s:.2f}", ""], ["forward pass alone", f"{pass_s:.2f}", ""]],
    )  # fmt: skip
    each = {}
    for name, det in suite.detectors_.items():
        seen = list(model.observations(Q, det.reads(model)))
        each[name], _ = measured(lambda d=det, s=seen: [d.score_observation(o) for o in s])
    dear = sorted(each, key=lambda name: -each[name])[:4]
    return {
        "suite_cpu_s": all_s, "one_by_one_cpu_s": single_s, "score_cpu_s": score_s,
        "pass_cpu_s": pass_s, "suite_mb": all_mb, "one_by_one_mb": single_mb,
        "score_observation_cpu_s": each,
    }, [
        target("all detectors fitted and scored, CPU of one by one / ours", ">= 5", ratio,
               ratio >= 5, f"{len(kinds)} of our own detectors each with passes of its own"),
        target("scores of all, forward passes", "<= 1.3", passes, passes <= 1.3,
               "most: " + ", ".join(f"{name} {each[name] / pass_s:.2f}" for name in dear)),
    ]  # fmt: skip


DRIFT_TESTS = {
    "ks": {"method": "ks"}, "chi2": {"method": "chi2"}, "mmd-linear": {"method": "mmd-linear"},
    "mmd-fourier": {"method": "mmd-fourier"}, "mmd, 500 rows": {"method": "mmd", "max_rows": 500},
    "energy, 500 rows": {"method": "energy", "max_rows": 500},
    "classifier": {"method": partial(classifier_test, classifier=LogisticRegression())},
    "score": {"method": "score", "on": None},
    "score, F law": {"method": "score", "on": None, "n_permutations": 0},
}  # fmt: skip
DRIFT_RUNS = {1000: 300, 10_000: 100, 100_000: 30}
SHIFTS = (0.05, 0.1, 0.2, 0.4)


def heavy_tailed(rng: np.random.Generator, n: int, shift: float = 0.0) -> np.ndarray:
    """Four columns, two of them correlated, the last one moved by ``shift``."""
    X = np.c_[rng.standard_t(4, n), rng.exponential(size=n), rng.normal(size=(n, 2))]
    X[:, 2] += X[:, 1]
    X[:, 3] += shift
    return X


def drift(quick: bool) -> Section:
    """False alarms of the drift tests where nothing drifts, and their power where a column does."""
    rng = np.random.default_rng(0)
    X = heavy_tailed(rng, 500)
    y = X @ [1.0, -1.0, 0.5, 0.0] + rng.normal(size=500)
    model = trustml.wrap(LinearRegression().fit(X, y))

    def p_value(name: str, n: int, shift: float, rng: np.random.Generator) -> float:
        options = {"n_permutations": 99, "on": "inputs", **DRIFT_TESTS[name]}
        samples = heavy_tailed(rng, n), heavy_tailed(rng, n, shift)
        return float(ood.drift_test(model, *samples, random_state=rng, **options).p_value)

    rows, targets, levels = [], [], {}
    for name in DRIFT_TESTS:
        shown = [name]
        for n, runs in [(1000, 40)] if quick else DRIFT_RUNS.items():
            if n == 100_000 and name == "mmd-fourier":  # minutes a test
                continue
            draws, start = np.random.default_rng(n), time.process_time()
            rate = float(np.mean([p_value(name, n, 0.0, draws) <= 0.05 for _ in range(runs)]))
            worst = abs(rate - 0.05) / (0.05 * 0.95 / runs) ** 0.5
            levels.setdefault(name, {})[n] = rate
            targets.append(
                target(f"{name}, n = {n:,}: false alarms at .05, SE off", "<= 3", worst, worst <= 3,
                       f"{rate:.3f} of {runs}, {(time.process_time() - start) / runs:.3f} s each")
            )  # fmt: skip
            shown.append(f"{rate:.3f}")
        rows.append(shown)
    show("False alarms at 0.05", ["test", *(f"n = {n:,}" for n in levels["ks"])], rows)
    power = {}
    for name in DRIFT_TESTS:
        draws = np.random.default_rng(7)
        tries = 10 if quick else 40
        power[name] = {
            shift: float(np.mean([p_value(name, 1000, shift, draws) <= 0.05 for _ in range(tries)]))
            for shift in SHIFTS
        }
    rows = [[name, *(f"{value:.2f}" for value in found.values())] for name, found in power.items()]
    show("Power, n = 1000", ["test", *(f"shift {shift}" for shift in SHIFTS)], rows)
    return {"false alarms": levels, "power": power}, targets


def fast_kinds() -> list[type[ood.Detector]]:
    """The detectors that read one forward pass."""
    return [kind for kind in catalogue().values() if not kind.needs & GRADIENTS]


def measured(call: Callable[[], object]) -> tuple[float, float]:
    """CPU seconds and growth of the peak memory in MB."""
    Path("/proc/self/clear_refs").write_text("5")
    before = status_megabytes("VmRSS")
    start = time.process_time()
    call()
    took = time.process_time() - start
    return took, status_megabytes("VmHWM") - before


SECTIONS = {
    "separation": separation, "verdicts": verdicts, "scaling": scaling, "cost": cost,
    "drift": drift,
}  # fmt: skip

if __name__ == "__main__":
    run_sections(SECTIONS, __doc__, HERE / "results/ood.json")
