"""Conformal prediction beside MAPIE, TorchCP, puncc and crepes.

Jackknife+ and CV+ without refits, full conformal prediction without refits, scores of many
classes, covariate shift, bounds of risks, p-values, coverage on real data, ranks. One thread;
CPU seconds are medians, memory is the growth of the process within the phase named.
Run `nox -s bench-peers` once, then `nox -s bench`.
"""

import statistics
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from _bench import ENVIRONMENTS, Contender, Section, run, run_sections, show, target, text
from _conformal_tasks import ALPHA, FOLDS, build, hits, splits
from _tasks import CACHE, DATA, NoData

HERE = Path(__file__).parent
PEERS = ("mapie", "puncc", "torchcp", "crepes")
LIBRARIES = ("trustml", *PEERS[:3])  # those that have adaptive sets
ENVIRONMENTS |= {f"conformal_{peer}": "conformal" for peer in PEERS}


def contend(
    cases: list[dict], contenders: Iterable[Contender], repeats: int = 3, patience: float = 8,
    apart: bool = False, warm: dict | None = None,
) -> list[dict[str, dict]]:  # fmt: skip
    """For each case, figures and `answer` of each contender by "library name", or the crash.

    Parameters
    ----------
    cases : list of dict
        A recipe of `_conformal_tasks` with its options, and data.
    contenders : iterable of (library, name)
        Where and what to run.
    repeats, patience
        How often, and after how many CPU seconds in all no more.
    apart : bool
        Whether each contender has a process of its own, so that its memory can be told.
    warm : dict or None
        A small case that is run first, without being measured.
    """
    by_process: dict[Contender, list[str]] = {}
    for library, name in contenders:
        by_process.setdefault((library, name if apart else ""), []).append(name)
    results: list[dict[str, dict]] = [{} for _ in cases]
    with tempfile.TemporaryDirectory() as folder:
        task = {"patience": patience, "cases": cases} | ({} if warm is None else {"warm": warm})
        torch.save(task, f"{folder}/task.pt")
        for (library, _), names in by_process.items():
            answer = run(f"conformal_{library}", "|".join(names), repeats, folder)
            for i, found in enumerate(results):
                for name in names:
                    found[f"{library} {name}"] = figures(answer, f"{name}#{i}")
            took = {name: results[0][f"{library} {name}"] for name in names}
            took = {name: r.get("phase_cpu_s", "crashed") for name, r in took.items()}
            print(f"  {library} {took}", file=sys.stderr, flush=True)
    return results


def figures(process: dict, key: str) -> dict:
    """What a process has found of one contender in one case; its phases' seconds a repeat."""
    if "crash" in process:
        return {"crash": process["crash"]}
    result = process["found"][key]
    if "crash" not in result:
        result["answer"] = process["scores"][key]
        repeats = len(result["cpu_s"])
        result["phase_cpu_s"] = {
            # A phase that runs many times in one repeat counts with all of them.
            phase: sum(each) / repeats if len(each) > repeats else statistics.median(each)
            for phase, each in result.pop("phases").items()
        }
    return result


def seconds(result: dict, *phases: str) -> float:
    """CPU seconds of some phases, or of all of them."""
    return sum(result["phase_cpu_s"][p] for p in phases or result["phase_cpu_s"])


def plain(results: dict[str, dict], answers: bool = False) -> dict[str, dict]:
    """Results for JSON, with their answers where these are few figures."""
    return {
        label: {
            k: v.tolist() if k == "answer" else v for k, v in r.items() if answers or k != "answer"
        }
        for label, r in results.items()
    }


def show_results(title: str, results: dict[str, dict], **columns: dict[str, str]) -> None:
    """Print contenders: CPU seconds and peak megabytes of each phase, and further columns."""
    rows = []
    for label, r in results.items():
        if "crash" in r:
            rows.append([label, "failed", "", *("" for _ in columns)])
            continue
        cpu = ", ".join(f"{phase} {text(s)}" for phase, s in r["phase_cpu_s"].items())
        peak = ", ".join(f"{phase} {mb:.0f}" for phase, mb in r["peak_mb"].items())
        rows.append([label, cpu, peak, *(column.get(label, "") for column in columns.values())])
    show(title, ["contender", "CPU s", "peak MB", *columns], rows)
    for label, r in results.items():
        if "crash" in r:
            print(f"{label}: {r['crash'].strip().splitlines()[-1][:200]}")


def need(results: dict[str, dict], *labels: str) -> list[dict]:
    """The results that a section cannot do without.

    Raises
    ------
    RuntimeError
        If one of them crashed.
    """
    for label in labels:
        if "crash" in results[label]:
            raise RuntimeError(f"{label}: {results[label]['crash']}")
    return [results[label] for label in labels]


def gap(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference, over the mean width of the intervals."""
    return float(np.abs(ours - theirs).max() / (theirs[:, 1] - theirs[:, 0]).mean())


def plus(quick: bool) -> Section:
    """Jackknife+, minmax and CV+ of a ridge without refits, beside MAPIE's refits."""
    n = 400 if quick else 2000
    rows = {"diabetes": (309, 133), "friedman": (n, 1000), "friedman, many new rows": (n, 20_000)}
    cases = [
        {"recipe": "linear", "options": {"name": name.split(",")[0], "n": n, "m": m}}
        for name, (n, m) in rows.items()
    ]
    kinds = ("jackknife+", "minmax", "CV+")
    contenders = [(library, kind) for kind in kinds for library in ("trustml", "mapie")]
    contenders += [("puncc", "jackknife+"), ("puncc", "CV+")]
    warm = {"recipe": "linear", "options": {"name": "friedman", "n": 60, "m": 20}}
    found = contend(cases[:2], contenders, 1 if quick else 5, 12, apart=True, warm=warm)
    # Memory: the matrix of new rows and training rows would be 305 MB.
    found += contend(cases[2:], contenders[:2], 1, apart=True, warm=warm)
    targets = []
    for (name, (n, m)), results in zip(rows.items(), found, strict=True):
        show_results(f"{name}: {n} rows, {m} new ones", results)
        for kind in kinds:
            if f"trustml {kind}" not in results:
                continue
            what = f"{name}, {n} rows, {kind}"
            ours, theirs = results[f"trustml {kind}"], results[f"mapie {kind}"]
            if "crash" in ours:
                targets.append(target(what, "runs", 0.0, False, ours["crash"][-200:]))
                continue
            error = gap(ours["answer"], theirs["answer"])
            targets.append(
                target(f"{what}: difference from MAPIE's ends / width", "<= 1e-8", error,
                       error <= 1e-8)
            )  # fmt: skip
            if name != "friedman":
                continue
            ratio, fit = seconds(theirs) / seconds(ours), seconds(ours, "fit")
            why = (
                f"their {FOLDS} refits of a ridge cost less than one pass of the engine"
                if kind == "CV+"
                else "fit is some twenty passes over the rows (damping, gradient, curvature, "
                "certificate), predict the selection of two order statistics of n a row"
            )
            note = (
                f"{seconds(theirs):.3g} s, {seconds(theirs, 'fit'):.3g} s of it to fit; ours "
                f"{fit:.3g} s to fit, {seconds(ours, 'predict'):.3g} s to predict {m} rows; {why}"
            )
            targets.append(
                target(f"{what}: MAPIE's CPU / ours", ">= 100", ratio, ratio >= 100, note)
            )
    (ours, theirs) = need(found[2], "trustml jackknife+", "mapie jackknife+")
    matrix = n * 20_000 * 8 / 2**20
    peak = max(ours["peak_mb"].values())
    targets.append(
        target(f"jackknife+, {n} x 20,000: peak MB", f"< {matrix:.0f}, one matrix", peak,
               peak < matrix, f"MAPIE {max(theirs['peak_mb'].values()):.0f}")
    )  # fmt: skip
    return {name: plain(results) for name, results in zip(rows, found, strict=True)}, targets


def small_network(quick: bool) -> Section:
    """Jackknife+ of a small tanh network without refits, beside its refits."""
    n, draws = (60, 1) if quick else (200, 3)
    # Beside squared errors; beside half of them, as the target was set, it would be 0.03.
    settings = [(decay, seed) for decay in (0.06, 0.03) for seed in range(draws)]
    cases = [
        {"recipe": "standardised", "options": {"n": n, "seed": seed, "decay": decay}}
        for decay, seed in settings
    ]
    warm = {"recipe": "standardised", "options": {"n": 30, "seed": 0, "decay": 0.06}}
    names = [("trustml", "network, refits"), ("mapie", "network, refits")]
    found = contend(cases, [("trustml", "network, one step")], 3, warm=warm)
    for results, refits in zip(found, contend(cases, names, 1), strict=True):
        results |= refits
    show_results(f"Network, {n} rows, first split", found[0])
    summary: dict[str, dict] = {}
    for (decay, _), results in zip(settings, found, strict=True):
        step, exact, mapie = need(
            results, "trustml network, one step", "trustml network, refits",
            "mapie network, refits",
        )  # fmt: skip
        seen, quickly, truth = step["answer"][:n], *(r["answer"][n : 2 * n] for r in (step, exact))
        error, uncorrected = np.abs(quickly - truth), np.abs(seen - truth).mean()
        ends = [r["answer"][-2 * (442 - n) :].reshape(2, -1) for r in (step, exact, mapie)]
        measured = {
            "uncorrected gap": float(uncorrected), "error": float(error.mean() / uncorrected),
            "median error": float(np.median(error) / uncorrected),
            "refits / ours": seconds(exact) / seconds(step),
            "MAPIE / ours": seconds(mapie) / seconds(step),
            "mean widths: ours, refits, MAPIE": [float((b - a).mean()) for a, b in ends],
        }  # fmt: skip
        for key, value in measured.items():
            summary.setdefault(f"decay {decay}", {}).setdefault(key, []).append(value)
    for setting, each in summary.items():
        print(setting, each)
    asked, harder = summary.values()
    worst, slowest = max(asked["error"]), min(asked["refits / ours"])

    def listed(values: list[float]) -> str:
        return ", ".join(f"{value:.3g}" for value in values)

    return {"summary": summary, "results": [plain(results) for results in found]}, [
        target("leave-one-out residuals: mean error / mean uncorrected gap, worst split",
               "< 0.03", worst, worst < 0.03,
               f"{listed(asked['error'])}; median error {listed(asked['median error'])}; half the "
               f"weight decay {listed(harder['error'])}"),
        target("refits' CPU / ours, slowest split", ">= 50", slowest, slowest >= 50,
               f"{listed(asked['refits / ours'])}; the same refits by MAPIE "
               f"{listed(asked['MAPIE / ours'])}"),
    ]  # fmt: skip


def full(quick: bool) -> Section:
    """Full conformal sets of a multinomial logistic regression on digits, beside refits."""
    recorded: dict = {}
    targets = []
    for n, aim in ((100, 0.02), (300, 0.001)):
        draws, m = (2, 10) if quick else (10, 60)
        cases = [
            {"recipe": "components", "options": {"n": n, "m": m, "seed": seed}}
            for seed in range(draws)
        ]
        names = [("trustml", "full, ordinary"), ("trustml", "full, deleted"),
                 ("mapie", "halves, lac")]  # fmt: skip
        warm = {"recipe": "components", "options": {"n": 100, "m": 2, "seed": 0}}
        found = contend(cases, names, 3, warm=warm)
        refits = contend(cases[: 1 if quick else 2], [("trustml", "full, ordinary, refits")], 1)
        gaps, agreed, speeds, rows = [], [], [], []
        for results, again in zip(found, refits, strict=False):
            results |= again
            step, exact = need(results, "trustml full, ordinary", "trustml full, ordinary, refits")
            p, truth = step["answer"], exact["answer"]
            gaps.append(float(np.abs(p - truth).mean()))
            agreed.append(float(((p > ALPHA) == (truth > ALPHA)).mean()))
            speeds.append(seconds(exact) / seconds(step))
            rows.append(seconds(exact, "predict") / seconds(step, "predict"))
        show_results(f"Digits, {n} rows, {m} new ones, first draw", found[0])
        means: dict[str, list[float]] = {}
        for label in ("trustml full, ordinary", "trustml full, deleted", "mapie halves, lac"):
            if label.startswith("trustml"):
                labels = [build(case)["yq"] for case in cases]
                answers = [need(results, label)[0]["answer"] for results in found]
                each = [hits(p > ALPHA, y) for p, y in zip(answers, labels, strict=True)]
            else:  # MAPIE refuses a draw whose first half lacks a digit
                each = [r[label]["answer"] for r in found if "answer" in r[label]]
                refused = draws - len(each)
            means[label] = np.mean(each, axis=0).tolist()
        show(
            f"Digits, {n} rows, {draws} draws of {m} new ones", ["", "coverage", "size", "empty"],
            [[name, *(text(v) for v in figures)] for name, figures in means.items()],
        )  # fmt: skip
        recorded[f"n={n}"] = {
            "p-value gaps": gaps, "agreement": agreed, "refits / one step": speeds,
            "the same, prediction alone": rows, "coverage, size, empty": means,
            "draws that MAPIE refuses": refused, "results": [plain(results) for results in found],
        }  # fmt: skip
        worst, slowest = max(gaps), min(speeds)
        targets.append(
            target(f"n={n}: mean p-value gap to refits", f"<= {aim:g}", worst, worst <= aim,
                   f"sets agree on {min(agreed):.4f} of the labels")
        )  # fmt: skip
        halves = "MAPIE on halves {:.3f} at size {:.3g}".format(*means["mapie halves, lac"])
        halves += f" ({refused} of {draws} draws refused: a digit is missing)" if refused else ""
        for label in () if n > 100 else ("trustml full, ordinary", "trustml full, deleted"):
            coverage, size, _ = means[label]
            targets.append(
                target(f"n={n}: coverage, {label.split(', ')[1]}", ">= 0.88", coverage,
                       coverage >= 0.88, f"mean size {size:.3g}; {halves}")
            )  # fmt: skip
        targets.append(
            target(f"n={n}: refits' CPU / ours", ">= 50", slowest, slowest >= 50,
                   f"one training for each of {m} rows and 10 labels; without the engine's fit, "
                   f"which serves any number of rows, {min(rows):.3g}")
        )  # fmt: skip
        if not quick and n == 100:  # of two rows: each takes 1010 trainings
            (exact,) = contend(cases[:1], [("trustml", "full, deleted, refits")], 1)
            (exact,) = need(exact, "trustml full, deleted, refits")
            p = found[0]["trustml full, deleted"]["answer"][: len(exact["answer"])]
            difference = float(np.abs(p - exact["answer"]).mean())
            took = seconds(exact, "predict") / len(p)
            recorded["n=100, deleted"] = {"p-value gap": difference, "refits' CPU s a row": took}
    return recorded, targets


def adaptive(quick: bool) -> Section:
    """Adaptive sets of 1000 classes, 100,000 calibration rows."""
    n = 5000 if quick else 100_000
    cases = [{"recipe": "softmax", "options": {"n": n, "m": 2000, "classes": 1000}}]
    contenders = [
        *((library, kind) for kind in ("aps", "lac") for library in LIBRARIES),
        ("trustml", "raps"), ("trustml", "raps (auto)"), ("mapie", "raps (auto)"),
    ]  # fmt: skip
    # A library's scores share a process, APS first: its memory is not what others have left.
    (results,) = contend(
        cases, contenders[:4] if quick else contenders, 1 if quick else 3, 12,
        warm={"recipe": "softmax", "options": {"n": 900, "m": 20, "classes": 5}},
    )  # fmt: skip
    sets = {
        label: "{:.4f} {:.2f}".format(*r["answer"]) for label, r in results.items() if "answer" in r
    }
    show_results(f"1000 classes, {n} calibration rows", results, **{"coverage, size": sets})
    ours, theirs = need(results, "trustml aps", "mapie aps")
    share = seconds(ours, "calibrate") / seconds(theirs, "calibrate")
    peak = ours["peak_mb"]["calibrate"]
    targets = [
        target("APS: our calibration's CPU / MAPIE's", "<= 0.05", share, share <= 0.05,
               f"{seconds(ours, 'calibrate'):.3g} s; MAPIE {seconds(theirs, 'calibrate'):.3g} s"),
        target("APS: calibration's memory, MB", "<= 100", peak, peak <= 100,
               f"MAPIE {theirs['peak_mb']['calibrate']:.0f}"),
    ]  # fmt: skip
    if not quick:
        each = {lib: seconds(results[f"{lib} lac"], "calibrate") for lib in LIBRARIES}
        share = each["trustml"] / each["mapie"]
        targets.append(
            target("LAC: our calibration's CPU / MAPIE's", "<= 1", share, share <= 1,
                   ", ".join(f"{lib} {took:.3g} s" for lib, took in each.items()))
        )  # fmt: skip
    return {"results": plain(results, answers=True)}, targets


SHIFTS = {
    "hard": ({"signal": 0.15, "shift": 1.0, "coefficients": 0}, 0.905, 5.3),
    "easy": ({"signal": 8.0, "shift": 2.0, "coefficients": 3}, 0.911, 1.15),
}


def shift(quick: bool) -> Section:
    """Covariate shift with exact density ratios."""
    recorded: dict = {}
    targets = []
    runs = 3 if quick else 10
    cases = [
        {"recipe": "shifted", "options": {**options, "seed": 100 + seed}}
        for options, _, _ in SHIFTS.values()
        for seed in range(runs)
    ]
    names = [(library, "weighted") for library in ("trustml", "torchcp", "puncc")]
    found = contend(cases, names, 1)
    for i, (name, (_, coverage, most)) in enumerate(SHIFTS.items()):
        mine = found[i * runs : (i + 1) * runs]
        means = {
            label: np.mean([results[label]["answer"] for results in mine], axis=0).tolist()
            for label in mine[0] if "answer" in mine[0][label]
        }  # fmt: skip
        show_results(f"Shift, {name}, first of {runs}", mine[0])
        show(
            f"Shift, {name}, {runs} runs", ["", "coverage", "size"],
            [[label, f"{m[0]:.4f}", f"{m[1]:.3f}"] for label, m in means.items()],
        )  # fmt: skip
        recorded[name] = {
            "runs": [plain(results, answers=True) for results in mine],
            "mean coverage, size, empty": means,
        }
        covered, size, _ = means["trustml weighted"]
        beside = "; ".join(
            f"{label.split()[0]} {m[0]:.3f} at {m[1]:.3g}" for label, m in means.items()
            if not label.startswith("trustml")
        )  # fmt: skip
        targets += [
            target(f"{name} shift: coverage", f"{coverage} +- 0.01", covered,
                   abs(covered - coverage) <= 0.01, beside),
            target(f"{name} shift: mean size", f"<= {most}", size, size <= most),
        ]  # fmt: skip
    return recorded, targets


def risk_bounds(quick: bool) -> Section:
    """Upper bounds of a risk at its worst case: how often they are below it, at delta 0.1."""
    runs = 200 if quick else 1000
    settings = [(alpha, n) for alpha in (0.1, 0.3) for n in (200, 500)]
    cases = [
        {
            "recipe": "coins", "options": {"p": alpha + 0.0002, "n": n, "runs": runs},
            "data": {"alpha": torch.tensor(alpha, dtype=torch.float64)},
        }
        for alpha, n in settings
    ]  # fmt: skip
    tests = ("wsr", "hoeffding-bentkus", "empirical-bernstein", "clopper-pearson")
    names = [("trustml", f"{kind} {test}") for kind in ("bound", "chosen") for test in tests]
    names += [("mapie", f"bound {kind}") for kind in ("wsr", "hoeffding", "bernstein")]
    rates = []
    for (alpha, _), results in zip(settings, contend(cases, names, 1), strict=True):
        rates.append({})
        for label, r in results.items():
            if "answer" in r:
                # A bound fails where it is below the risk; a choice where the column is taken.
                wrong = r["answer"] if " chosen " in label else r["answer"] < alpha + 0.0002
                rates[-1][label] = float(wrong.mean())
    labels = [f"{alpha:g}, n={n}" for alpha, n in settings]
    show(
        f"Violations of {runs}, risk a hair above", ["", *labels],
        [[label, *(f"{each[label]:.3f}" for each in rates)] for label in rates[0]],
    )  # fmt: skip
    worst = max(each[f"trustml {kind} wsr"] for each in rates for kind in ("bound", "chosen"))
    note = "MAPIE " + ", ".join(f"{each['mapie bound wsr']:.3f}" for each in rates)
    return {"runs": runs, "violations": dict(zip(labels, rates, strict=True))}, [
        target("WSR-RCPS violations at delta 0.1, worst of four cases", "<= 0.10", worst,
               worst <= 0.10, note)
    ]  # fmt: skip


def p_values(quick: bool) -> Section:
    """p-values of a million test-label pairs against 100,000 calibration rows."""
    n, m = (10_000, 100) if quick else (100_000, 1000)
    cases = [{"recipe": "scores", "options": {"n": n, "m": m, "classes": 1000}}]
    names = [("trustml", "p-values"), ("trustml", "p-values, smoothed"),
             ("crepes", "p-values"), ("torchcp", "p-values")]  # fmt: skip
    warm = {"recipe": "scores", "options": {"n": 100, "m": 20, "classes": 5}}
    (results,) = contend(cases, names, 1 if quick else 5, 20, apart=True, warm=warm)
    if not quick:
        cases = [{"recipe": "softmax", "options": {"n": n, "m": m, "classes": 1000}}]
        results |= contend(cases, [("trustml", "SplitClassifier.p_values")], 3, apart=True)[0]
    million = {
        label: f"{1e6 * seconds(r, 'predict') / r['pairs']:.3g}"
        for label, r in results.items() if "pairs" in r
    }  # fmt: skip
    show_results("p-values", results, **{"CPU s a million": million})
    (ours,) = need(results, "trustml p-values")
    took, beside = seconds(ours, "predict"), []
    for label in ("crepes p-values", "torchcp p-values"):
        if label in million:
            difference = np.abs(ours["answer"] - results[label]["answer"]).max()
            beside.append(
                f"{label.split()[0]} {million[label]} s a million, from {results[label]['pairs']} "
                f"of them (largest difference {difference:.0e})"
            )
    return {"results": plain(results)}, [
        target(f"{ours['pairs']:,} p-values, {n:,} calibration rows: CPU s", "< 1", took, took < 1,
               "; ".join(beside))
    ]  # fmt: skip


def fashion() -> dict[str, torch.Tensor]:
    """Probabilities of a small perceptron for Fashion-MNIST's test images."""
    from sklearn.neural_network import MLPClassifier

    images = np.load(there(DATA / "fashion_mnist.npz"))
    X, Xq = (
        images[f"{part}_images"].reshape(-1, 28, 28)[:, ::2, ::2].reshape(-1, 196) / 255
        for part in ("train", "test")
    )
    model = MLPClassifier(64, max_iter=12, random_state=0)
    model.fit(X[:6000], images["train_labels"][:6000])
    return {
        "p": torch.from_numpy(model.predict_proba(Xq)).double(),
        "y": torch.from_numpy(images["test_labels"].astype(np.int64)),
    }


def adult() -> dict[str, torch.Tensor]:
    """Probabilities of boosted trees for the test rows of UCI Adult: two classes."""
    import pandas as pd
    from sklearn.ensemble import HistGradientBoostingClassifier

    table = pd.read_csv(there(DATA / "adult_complete_cases.csv.gz"))
    y = table["income"].str.contains(">").to_numpy()
    X = table.drop(columns=["income", "split"])
    for column in X.select_dtypes(exclude="number"):
        X[column] = X[column].astype("category").cat.codes
    train = (table["split"] == "train").to_numpy()
    model = HistGradientBoostingClassifier(max_iter=60, random_state=0).fit(X[train], y[train])
    p = model.predict_proba(X[~train])
    return {"p": torch.from_numpy(p), "y": torch.from_numpy(y[~train].astype(np.int64))}


def there(file: Path) -> Path:
    """The file.

    Raises
    ------
    NoData
        If it is not on this machine.
    """
    if not file.exists():
        raise NoData(f"{file} not found")
    return file


def real(quick: bool) -> Section:
    """Coverage and size on Fashion-MNIST and Adult over random splits of their test rows."""
    recorded: dict = {}
    targets, cases = [], []
    calibration, test, count = 1000, 1000, 10 if quick else 200
    pools = {"fashion": fashion, "adult": adult}
    for name, make in pools.items():
        file = CACHE / f"conformal-{name}.pt"
        if not file.exists():
            CACHE.mkdir(exist_ok=True)
            torch.save(make(), file)
        pool = torch.load(file)
        rows = torch.from_numpy(splits(len(pool["y"]), calibration, test, count))
        cases.append({"data": {**pool, "rows": rows, "n": torch.tensor(calibration)}})
    kinds = ("lac", "aps", "raps", "raps (auto)")
    of = {
        "trustml": kinds, "puncc": kinds[:3], "torchcp": kinds[:3],
        "mapie": ("lac", "aps", "aps (default)", "raps (auto)"), "crepes": ("lac",),
    }  # fmt: skip
    names = [(library, f"{kind}, resplits") for library, each in of.items() for kind in each]
    for name, results in zip(pools, contend(cases, names, 1), strict=True):
        summary = {}
        for label, r in results.items():
            if "answer" in r:
                coverage, size, empty = r["answer"].T
                summary[label.removesuffix(", resplits")] = {
                    "coverage": float(coverage.mean()), "sd": float(coverage.std(ddof=1)),
                    "size": float(size.mean()), "empty": float(empty.mean()),
                    "ms a split": 1e3 * seconds(r) / count,
                }  # fmt: skip
        show(
            f"{name}: {count} splits, {calibration} calibration and {test} test rows",
            ["", "coverage", "sd", "size", "empty", "ms a split"],
            [[k, *(f"{v:.4f}" for v in s.values())] for k, s in summary.items()],
        )
        crashed = {k: r["crash"].splitlines()[-1] for k, r in results.items() if "crash" in r}
        print("\n".join(f"{k}: {reason[:160]}" for k, reason in crashed.items()))
        recorded[name] = {"summary": summary, "crashed": crashed}
        for kind in kinds:
            ours = summary[f"trustml {kind}"]
            error = 3 * ours["sd"] / np.sqrt(count)
            # Random splits of one pool are exchangeable, so the bounds hold for this pool.
            inside = 1 - ALPHA - error <= ours["coverage"] <= 1 - ALPHA + 1 / calibration + error
            beside = [
                f"{k} {s['coverage']:.4f} at {s['size']:.4g}"
                for k, s in summary.items()
                if k.endswith(f" {kind}") and not k.startswith("trustml")
            ]
            targets.append(
                target(f"{name}, {kind}: coverage", f"0.9 to 0.901 +- {error:.4f}",
                       ours["coverage"], inside, f"size {ours['size']:.4g}; " + ", ".join(beside))
            )  # fmt: skip
    return recorded, targets


def ranks(quick: bool) -> Section:
    """The rank that each library takes, where it is known in whole numbers."""
    sizes = [*range(1, 301), 333, 399, 400, 499, 500, 599, 600, 799, 800, 999, 1000, 1999, 2000]
    hundredths = [1, 2, *range(5, 100, 5)]
    cases = [{"data": {"sizes": torch.tensor(sizes), "hundredths": torch.tensor(hundredths)}}]
    names = [("trustml", "ranks"), ("mapie", "ranks"), ("mapie", "ranks, regression"),
             ("puncc", "ranks"), ("torchcp", "ranks"), ("crepes", "ranks")]  # fmt: skip
    (results,) = contend(cases, names, 1)
    truth = np.array([[-((n + 1) * (h - 100) // 100) for h in hundredths] for n in sizes])
    feasible = truth <= np.array(sizes)[:, None]
    counts = {}
    for label, r in results.items():
        if "answer" in r:
            found = r["answer"]
            sides = {"exact": found == truth, "too high": found > truth, "too low": found < truth}
            counts[label] = {side: int(hit[feasible].sum()) for side, hit in sides.items()}
    total = int(feasible.sum())
    columns = {side: {k: str(c[side]) for k, c in counts.items()} for side in sides}
    show_results(f"Ranks of {total} feasible pairs", results, **columns)
    ours = counts["trustml ranks"]["exact"]
    beside = ", ".join(f"{k} {c['exact']}" for k, c in counts.items() if k != "trustml ranks")
    recorded = {"feasible": total, "counts": counts, "results": plain(results)}
    return recorded, [target("exact ranks", f"{total} of {total}", ours, ours == total, beside)]


SECTIONS = {
    "plus": plus, "network": small_network, "full": full, "aps": adaptive, "shift": shift,
    "risk": risk_bounds, "p-values": p_values, "real": real, "ranks": ranks,
}  # fmt: skip

if __name__ == "__main__":
    run_sections(SECTIONS, __doc__, HERE / "results/conformal.json")
