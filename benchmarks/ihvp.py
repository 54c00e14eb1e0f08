"""Inverse-Hessian-vector products beside the peers: accuracy, CPU seconds, passes, memory.

Each contender runs in a process of its own on one thread, several times; the tables give medians.
`passes` divides CPU seconds by those of one forward and backward pass over the training rows in the
same process. `error` is relative to a dense float64 solve of the matrix that the contender inverts.
Contenders that take long answer fewer queries: `ms / query` compares them. The memory is the growth
of the peak during the first call. Run `nox -s bench-peers` once, then `nox -s bench`.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

import _references as dense
import trustml
from _bench import (
    Section,
    contend,
    plain,
    rank_correlation,
    relative_error,
    run_sections,
    show,
    show_contenders,
    target,
)
from _measure import load, one_pass, row_gradients
from _networks import NanoGpt, build, mean_loss
from _tasks import NoData, digits, mnist, shakespeare, task_of
from trustml import ihvp

HERE = Path(__file__).parent


def logistic_task() -> dict:
    """Digits under multinomial logistic regression at its minimum; the damping is its L2 term."""
    X, y, Xq, yq = digits()
    fitted = LogisticRegression(C=1e3 / len(X), tol=1e-10, max_iter=10_000).fit(
        X.double().numpy(), y.numpy()
    )
    state = {"0.weight": torch.tensor(fitted.coef_), "0.bias": torch.tensor(fitted.intercept_)}
    return {
        "network": "logistic", "state": {k: v.float() for k, v in state.items()}, "damping": 1e-3,
        "X": X, "y": y, "Xq": Xq, "yq": yq,
    }  # fmt: skip


def bare(task: dict) -> dict:
    """The task without its weight decay: all contenders invert C + damping."""
    return {**task, "weight_decay": 0.0}


def trained(network: str, data: tuple, steps: int = 200, rate: float = 3e-3) -> dict:
    """A task made here: Adam on batches of 128."""
    X, y, Xq, yq = data
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = build(network).train()
        optimiser = torch.optim.Adam(net.parameters(), lr=rate)
        for step in range(steps):
            rows = slice(step * 128 % len(X), step * 128 % len(X) + 128)
            optimiser.zero_grad()
            mean_loss(net(X[rows]), y[rows]).backward()
            optimiser.step()
    return {
        "network": network, "state": net.state_dict(), "damping": 1e-2,
        "X": X, "y": y, "Xq": Xq, "yq": yq,
    }  # fmt: skip


def first_rows(task: dict, n: int, queries: int | None = None) -> dict:
    """The task on its first rows."""
    return {**task, "X": task["X"][:n], "y": task["y"][:n], "Xq": task["Xq"][:queries],
            "yq": task["yq"][:queries]}  # fmt: skip


def judge(results: list[dict], truths: dict[str, np.ndarray]) -> None:
    """Add each contender's error to the dense reference of its own matrix."""
    for r in results:
        truth = truths.get(r.get("curvature", ""))
        if truth is not None and "scores" in r:
            r["error"] = relative_error(r["scores"], truth)
            r["rank"] = float(rank_correlation(r["scores"], truth[: len(r["scores"])]).mean())


def both_references(task: dict) -> dict[str, np.ndarray]:
    """Scores of dense float64 solves, under the names that contenders report."""
    G = dense.scores(task, dense.kept("gauss_newton", task, dense.gauss_newton))
    H = dense.scores(task, dense.kept("hessian", task, dense.hessian))
    return {"gauss_newton": G, "GaussNewton": G, "hessian": H, "Hessian": H}


def exact(quick: bool) -> Section:
    """Direct methods against dense float64, in float32 and float64."""
    task = bare(logistic_task() if quick else task_of("digits"))
    truths = both_references(task)
    # With more output rows than parameters the dual solve is the wrong tool.
    contenders = [("trustml", "cholesky"), ("trustml", "cholesky, Hessian")]
    recorded, targets = {}, []
    for dtype, aim in ((torch.float32, 1e-6), (torch.float64, 1e-10)):
        name = str(dtype).removeprefix("torch.")
        results = contend(dense.doubled(task) | {"dtype": dtype}, contenders, 1)
        judge(results, truths)
        show_contenders(f"Exact methods, {task['network']}, {name}", results, "error", "certified")
        recorded[name] = plain(results)
        worst = max((r["error"] for r in results if "error" in r), default=float("inf"))
        targets.append(
            target(f"exact methods, {name}, worst error", f"<= {aim:g}", worst, worst <= aim)
        )
    return recorded, targets


def automatic(quick: bool) -> Section:
    """`auto` on six problems against dense float64 of the matrix that it chose to invert."""
    problems = {
        "digits logistic": logistic_task,
        "digits MLP, 200 rows": lambda: first_rows(bare(task_of("digits")), 200),
    }
    if not quick:
        problems |= {
            "digits MLP": lambda: bare(task_of("digits")),
            "MNIST CNN": lambda: bare(task_of("mnist")),
            "nano-GPT": lambda: trained("small-gpt", shakespeare(128, 64)),
            "digits wide MLP": wide_task,
        }
    recorded, targets = {}, []
    rows = []
    for name, make in problems.items():
        try:
            task = make()
        except NoData as reason:
            rows.append([name, str(reason)])
            continue
        matrix = dense.kept("gauss_newton", task, dense.gauss_newton)
        (r,) = contend(task, [("trustml", "auto")], 1)
        if "crash" in r:
            raise RuntimeError(r["crash"])
        r["error"] = relative_error(r["scores"], dense.scores(task, matrix, r["damping"]))
        rows.append([
            name, str(len(matrix)), r["method"], f"{r['median_cpu_s']:.2f}", f"{r['error']:.1e}",
            f"{r['certified']:.1e}",
        ])  # fmt: skip
        recorded[name] = plain([r])[0]
    show("auto", ["problem", "p", "method", "CPU s", "error", "certified residual"], rows)
    worst = max(r["error"] for r in recorded.values())
    told = max(r["certified"] for r in recorded.values())
    targets.append(
        target(f"auto, {len(recorded)} problems, worst error", "<= 1e-3", worst,
               worst <= 1e-3 and told <= 1e-3, f"worst certified residual {told:.1e}")
    )  # fmt: skip
    return recorded, targets


def wide_task() -> dict:
    """More parameters than output rows: 200 digits under a perceptron of 17,000 parameters."""
    X, y, Xq, yq = digits()
    return trained("digits-wide", (X[:200], y[:200], Xq, yq))


def batch_sizes(quick: bool) -> Section:
    """The same scores whatever the batch size; pyDVL averages batch means unweighted."""
    task = dense.doubled(logistic_task())
    sizes = (1437, 128, 1430) if quick else (1437, 719, 256, 128, 1430)
    contenders = [("trustml", "auto"), ("pydvl", "block CG (rtol 1e-6)")]
    moved: dict[str, dict[int, float]] = {"trustml": {}, "pydvl": {}}
    whole: dict[str, np.ndarray] = {}
    for size in sizes:
        for r in contend({**task, "batch": size}, contenders, 1):
            if "scores" in r:
                whole.setdefault(r["library"], r["scores"])
                moved[r["library"]][size] = relative_error(r["scores"], whole[r["library"]])
    rows = [
        [name, *(f"{found.get(s, np.nan):.1e}" for s in sizes)] for name, found in moved.items()
    ]
    show("Relative change of the scores against batch 1437", ["", *map(str, sizes)], rows)
    worst = max(moved["trustml"].values())
    peer = max(moved["pydvl"].values(), default=float("nan"))
    return {"moved": moved}, [
        target("batch sizes 1437 to 1430, largest change", "<= 1e-6", worst, worst <= 1e-6,
               f"pyDVL {peer:.2g}")
    ]  # fmt: skip


def logistic(quick: bool) -> Section:
    """Digits under logistic regression, 360 x 1437, float64."""
    task = dense.doubled(logistic_task())
    truths = both_references(task)
    results = contend(task, [
        ("trustml", "auto"), ("trustml", "cholesky"), ("pydvl", "direct"), ("dattri", "explicit"),
        ("captum", "naive, full rank, n x damping"), ("curvlinops", "CG (default)"),
    ][: 3 if quick else None], 3 if quick else 5)  # fmt: skip
    judge(results, truths)
    show_contenders("Digits logistic regression, float64", results, "error", "certified")
    ours = results[0]
    peers = [r["median_cpu_s"] for r in results if r["library"] != "trustml" and "cpu_s" in r]
    note = f"fastest peer {min(peers):.2f} s" if peers else "no peer here"
    return {"results": plain(results)}, [
        target("logistic regression, error", "<= 1e-8", ours["error"], ours["error"] <= 1e-8),
        target("logistic regression, CPU s", "<= 0.3", ours["median_cpu_s"],
               ours["median_cpu_s"] <= 0.3, note),
    ]  # fmt: skip


def perceptron_rows(quick: bool) -> Section:
    """Digits MLP, 360 x 1437: ours beside the peers."""
    task = bare(task_of("digits"))
    if quick:
        task = first_rows(task, 200)
    truths = both_references(task)
    contenders = [
        ("trustml", "auto"), ("trustml", "CG"), ("trustml", "EK-FAC"),
        ("pydvl", "Nystroem rank 300"), ("pydvl", "Arnoldi rank 100"),
        ("pydvl", "block CG (rtol 1e-6)"), ("pydvl", "EK-FAC"),
        ("curvlinops", "CG (default)"), ("curvlinops", "CG (tolerance 1e-6)"),
        ("curvlinops", "EK-FAC (Monte Carlo)"), ("curvlinops", "EK-FAC (type-2)"),
        ("kronfluence", "EK-FAC"), ("dattri", "EK-FAC"), ("dattri", "CG (default, 10 iterations)"),
        ("captum", "Arnoldi (default)"),
    ]  # fmt: skip
    if quick:
        contenders = [*contenders[:5], ("kronfluence", "EK-FAC"), ("dattri", "EK-FAC")]
    else:
        # dattri's explicit and CG solvers want 15 GB here, and captum's naive one 109 seconds.
        contenders += [("trustml", "cholesky"), ("pydvl", "direct")]
    results = contend(task, contenders, 1 if quick else 3)
    judge(results, truths)
    n = len(task["X"])
    show_contenders(f"Digits MLP, 360 x {n}", results, "curvature", "error", "rank", "moved")
    ours = results[0]
    return {"results": plain(results), "n": n}, [
        target(f"digits MLP, 360 x {n}, auto, CPU s", "<= 1.0", ours["median_cpu_s"],
               ours["median_cpu_s"] <= 1.0),
        target("same, peak MB", "<= 300", ours["peak_mb"], ours["peak_mb"] <= 300),
        target("same, change from run to run", "0", ours["moved"] or 0.0, not ours["moved"]),
    ]  # fmt: skip


def conjugate_gradients(quick: bool) -> Section:
    """CG to a relative residual of 1e-6: CPU and products, 20 queries of the digits MLP."""
    task = bare(task_of("digits"))
    task = first_rows(task, 200 if quick else 1437, 20)
    names = [("curvlinops", "CG (tolerance 1e-6)"), ("pydvl", "block CG (rtol 1e-6)")]
    slow = [] if quick else [("pydvl", "CG (default)")]
    results = contend(task, [*names, *slow], 1 if quick else 3, patience=20)
    model, train, queries = load(task | {"dtype": torch.float32})
    objective = ihvp.Objective(model, torch.nn.CrossEntropyLoss(), train)
    B = row_gradients(model, *queries).T.contiguous()
    cpu, solution = [], None
    for _ in range(1 if quick else 3):
        start = time.process_time()
        operator = ihvp.GaussNewton(objective) + task["damping"]
        solution = ihvp.solve(operator, B, method="cg", tol=1e-6)
        cpu.append(time.process_time() - start)
    ours = statistics.median(cpu)
    residual = float(solution.relative_residual.max())
    per_query = {
        f"{r['library']} {r['name']}": r["median_cpu_s"] / r["queries"]
        for r in results
        if "cpu_s" in r
    }
    rows = [["trustml cg", f"{1e3 * ours / 20:.1f}", str(solution.products), f"{residual:.1e}"]]
    products = {r["library"]: r["products"] for r in results if r.get("products")}
    rows += [
        [name, f"{1e3 * took:.1f}", str(products.get(name.split()[0], "")), ""]
        for name, took in per_query.items()
    ]
    show("CG to 1e-6", ["", "ms / query", "products with all columns", "worst residual"], rows)
    recorded = {
        "trustml": {"cpu_s": cpu, "products": solution.products, "residual": residual},
        "peers": plain(results),
    }
    targets = []
    for name, aim in (("pydvl CG (default)", 50), ("pydvl block CG (rtol 1e-6)", 4)):
        if name in per_query:
            ratio = per_query[name] / (ours / 20)
            targets.append(target(f"CPU of {name} / ours", f">= {aim}", ratio, ratio >= aim))
    if "curvlinops" in products:
        ratio = products["curvlinops"] / (solution.products / 20)
        targets.append(target("products of curvlinops CG / ours", ">= 1.5", ratio, ratio >= 1.5))
    return recorded, targets


def hessian_products(quick: bool) -> Section:
    """A product with the Hessian in batch gradients, after the first has built the graphs."""
    rng = torch.Generator().manual_seed(0)
    images = torch.rand(128, 1, 28, 28, generator=rng)
    labels = torch.randint(0, 10, (128,), generator=rng)
    tokens = torch.randint(0, 65, (128, 33), generator=rng)
    tasks = {
        "MLP, 235,146": (build("mnist-mlp-235k"), images.flatten(1), labels, 1.5),
        "CNN, 105,866": (build("cnn"), images, labels, 1.5),
        "transformer": (NanoGpt(72, 1, 4, 32).eval(), tokens[:, :-1], tokens[:, 1:], 2.5),
    }
    recorded, targets, rows = {}, [], []
    for name, (model, X, y, aim) in tasks.items():
        parameters = list(model.parameters())
        objective = ihvp.Objective(model, torch.nn.CrossEntropyLoss(), (X, y), batch_size=len(X))
        hessian = ihvp.Hessian(objective)
        vectors = torch.randn(objective.space.size, 8, generator=rng)
        times: dict[str, list[float]] = {"gradient": [], "one": [], "eight": []}
        hessian @ vectors[:, 0]
        for _ in range(5 if quick else 15):
            start = time.process_time()
            torch.autograd.grad(mean_loss(model(X), y), parameters)
            times["gradient"].append(time.process_time() - start)
            start = time.process_time()
            hessian @ vectors[:, 0]
            times["one"].append(time.process_time() - start)
            start = time.process_time()
            hessian @ vectors
            times["eight"].append((time.process_time() - start) / 8)
        best = {key: statistics.median(values) for key, values in times.items()}
        one, eight = (best[key] / best["gradient"] for key in ("one", "eight"))
        rows.append([name, f"{1e3 * best['gradient']:.1f}", f"{one:.2f}", f"{eight:.2f}"])
        recorded[name] = {"gradient_s": best["gradient"], "one": one, "of_eight": eight}
        targets.append(
            target(f"Hessian product, {name} parameters, in gradients", f"<= {aim}", one,
                   one <= aim, f"{eight:.2f} each of eight at once")
        )  # fmt: skip
    show("Hessian products, 128 rows", ["model", "gradient ms", "one", "each of eight"], rows)
    return recorded, targets


def small_images(n: int, queries: int) -> tuple:
    """MNIST averaged to 14 x 14."""
    X, y, Xq, yq = mnist(n, queries)
    return (
        *(torch.nn.functional.avg_pool2d(X, 2).flatten(1), y),
        torch.nn.functional.avg_pool2d(Xq, 2).flatten(1),
        yq,
    )


def ekfac_rows(quick: bool) -> Section:
    """EK-FAC fit and 64 x 2048 scores, 42k parameters; and how far it is from exact blocks."""
    peers = [("pydvl", "EK-FAC"), ("dattri", "EK-FAC"), ("kronfluence", "EK-FAC")]
    more = [("curvlinops", "EK-FAC (type-2)"), ("curvlinops", "EK-FAC (Monte Carlo)")]
    task = trained("mnist-mlp-42k", small_images(2048, 64))
    results = contend(task, [("trustml", "EK-FAC"), *peers, *more], 3, patience=15)
    show_contenders("EK-FAC, 64 x 2048, 41,790 parameters", results)
    cpu = {r["library"]: r["median_cpu_s"] for r in reversed(results) if "cpu_s" in r}
    targets = []
    for (library, _), aim in zip(peers, (30, 25, 10), strict=True):
        if library in cpu:
            ratio = cpu[library] / cpu["trustml"]
            what = f"EK-FAC, 64 x 2048, CPU of {library} / ours"
            targets.append(target(what, f">= {aim}", ratio, ratio >= aim))
    recorded = {"speed": plain(results)}
    # Errors need the exact blocks, dense: the digits perceptron.
    task = bare(task_of("digits"))
    if quick:
        task = first_rows(task, 200)
    G = dense.kept("gauss_newton", task, dense.gauss_newton)
    exact_blocks = dense.block_diagonal(G, dense.blocks_of(build("digits-mlp")))
    truth = dense.scores(task, exact_blocks)
    best = relative_error(dense.scores(task, dense.kept("ekfac", task, dense.ekfac)), truth)
    contenders = [("trustml", "EK-FAC"), ("trustml", "exact blocks"), *peers, *more]
    results = contend(task, contenders, 1)
    for r in results:
        if "scores" in r:
            r["error"] = relative_error(r["scores"], truth)
    show_contenders(
        f"Against exact blocks of Gauss-Newton; exact type-2 EK-FAC in float64: {best:.4g}",
        results, "error",
    )  # fmt: skip
    ours = results[0]["error"]
    others = [r["error"] for r in results[2:] if "error" in r]
    ratio = ours / best
    targets += [
        target("EK-FAC error / exact type-2 in float64", "<= 1.02", ratio, ratio <= 1.02),
        target("EK-FAC error / best peer's", "< 1", ours / min(others), ours < min(others),
               f"ours {ours:.4g}, best peer {min(others):.4g}"),
    ]  # fmt: skip
    return recorded | {"accuracy": plain(results), "type-2 error": best}, targets


def convolutional(quick: bool) -> Section:
    """CNN of 105,866 parameters: EK-FAC fit and 200 x 10,000 scores."""
    n = 1000 if quick else 10_000
    X, y, Xq, yq = mnist(9800, 200)
    X, y = torch.cat([X, X[:200]])[:n], torch.cat([y, y[:200]])[:n]
    task = trained("cnn", (X, y, Xq, yq), steps=50 if quick else 150)
    contenders = [
        ("trustml", "EK-FAC (Monte Carlo)"), ("trustml", "EK-FAC"),
        ("curvlinops", "EK-FAC (Monte Carlo)"),
    ]  # fmt: skip
    if not quick:
        contenders += [("kronfluence", "EK-FAC")]
    results = contend({**task, "batch": 256}, contenders, 1)
    ours = results[0]
    for r in results[1:]:
        if "scores" in r and "scores" in ours:
            r["Pearson with ours"] = float(
                np.corrcoef(r["scores"].ravel(), ours["scores"].ravel())[0, 1]
            )
    show_contenders(f"CNN, EK-FAC fit and 200 x {n:,}", results, "Pearson with ours")
    return {"results": plain(results), "n": n}, [
        target(f"CNN, EK-FAC fit + 200 x {n:,}, passes", "<= 8", ours["passes"],
               ours["passes"] <= 8, peers_note(results, "passes")),
        target("same, peak MB", "<= 400", ours["peak_mb"], ours["peak_mb"] <= 400,
               peers_note(results, "peak_mb")),
    ]  # fmt: skip


def peers_note(results: list[dict], field: str) -> str:
    """The same figure of the others."""
    return ", ".join(f"{r['library']} {r[field]:.0f}" for r in results[1:] if field in r)


class Counted(torch.nn.Module):
    """A network that counts the rows of its forward passes and of the backward passes after."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net
        self.forwards = self.backwards = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.net(x)
        self.forwards += len(x)
        if out.requires_grad:
            out.register_hook(self._count)
        return out

    def _count(self, gradient: torch.Tensor) -> None:
        self.backwards += len(gradient)


def floor(quick: bool) -> Section:
    """A whole EK-FAC run beside the forward and backward passes that it makes, bare."""
    task = trained("cnn", mnist(500 if quick else 2000, 50), steps=50)
    X, y, Xq, yq = (task[key] for key in ("X", "y", "Xq", "yq"))
    net = build("cnn", task["state"])
    counted = Counted(net).eval()
    model = trustml.wrap(counted, task="classification", train=(X, y), batch_size=256)
    start = time.process_time()
    influence = trustml.influence.InfluenceFunctions(
        model, curvature="ekfac", damping=task["damping"], correction="none"
    ).fit()
    influence.scores(Xq, yq, scale="raw")
    whole = time.process_time() - start
    both = one_pass(net, X, y)
    forward = []
    for _ in range(3):
        start = time.process_time()
        for rows in X.split(256):
            net(rows)
        forward.append(time.process_time() - start)
    forwards, backwards = counted.forwards / len(X), counted.backwards / len(X)
    bare_passes = forwards * min(forward) + backwards * (both - min(forward))
    ratio = whole / bare_passes
    note = (
        f"{forwards:.1f} forward and {backwards:.1f} backward passes, {whole / both:.1f} pass times"
    )
    print(f"EK-FAC run, {len(X)} rows: {whole:.2f} s, bare passes {bare_passes:.2f} s; {note}")
    return {
        "cpu_s": whole, "bare_passes_s": bare_passes, "forwards": forwards, "backwards": backwards,
    }, [target("EK-FAC run / its bare passes", "<= 1.3", ratio, ratio <= 1.3, note)]  # fmt: skip


def memory(quick: bool) -> Section:
    """Peak growth of an EK-FAC run over n rows and 235,146 parameters, against n x p floats."""
    n = 4000 if quick else 20_000
    X, y, Xq, yq = mnist(9936, 64)
    rows = torch.arange(n) % len(X)
    noise = torch.rand(n, 784, generator=torch.Generator().manual_seed(0)) / 100
    data = (X[rows].flatten(1) + noise, y[rows], Xq.flatten(1), yq)
    task = trained("mnist-mlp-235k", data, steps=100)
    (r,) = contend(task, [("trustml", "EK-FAC")], 1)
    if "crash" in r:
        raise RuntimeError(r["crash"])
    share = r["peak_mb"] * 2**20 / (n * 235_146 * 4)
    show_contenders(f"EK-FAC, 64 x {n:,}, 235,146 parameters", [r])
    return plain([r])[0] | {"n": n}, [
        target(f"scoring memory, n={n:,}, p=235k, share of n p floats", "<= 0.1", share,
               share <= 0.1, f"{r['peak_mb']:.0f} MB")
    ]  # fmt: skip


def reuse(quick: bool) -> Section:
    """Questions after one `fit`, in shares of it; digits under a factorisation, then under CG."""
    digits_task = first_rows(task_of("digits"), 400) if quick else task_of("digits")
    recorded: dict[str, dict] = {}
    targets: list[dict] = []
    rows: list[list[str]] = []
    questions_after_fit(logistic_task(), "auto")  # what is imported on first use
    # The factorisation is the fit; CG has none, and what its first question found serves the next.
    for what, task, method in (
        ("logistic, auto", logistic_task(), "auto"), ("MLP, Cholesky", digits_task, "cholesky"),
        ("MLP, auto (CG)", digits_task, "auto"),
    ):  # fmt: skip
        took = questions_after_fit(task, method)
        recorded[what] = took
        first = took["fit"] + (took["influence, 20 queries"] if "CG" in what else 0.0)
        for name, seconds in took.items():
            share = seconds / first
            rows.append([what, name, f"{seconds:.3f}", f"{share:.3f}"])
            if name not in ("fit", "influence, 20 queries" if "CG" in what else ""):
                part = "fit and first question" if "CG" in what else "fit"
                told = f"{what}: {name}, share of {part}"
                targets.append(target(told, "< 0.1", share, share < 0.1))
    show("After one fit", ["model", "question", "CPU s", "share"], rows)
    return recorded, targets


def questions_after_fit(task: dict, method: str) -> dict[str, float]:
    """CPU seconds of `fit` and of five questions."""
    net, (X, y), (Xq, yq) = load(task | {"dtype": torch.float32})
    model = trustml.wrap(
        net, task="classification", train=(X, y), weight_decay=task.get("weight_decay", 0.0)
    )
    influence = trustml.influence.InfluenceFunctions(model, method=method)
    groups = (Xq[:, 20] > 0.5).numpy()
    objective = model.objective

    def laplace() -> None:
        J = objective.per_example_gradients(Xq[:20], yq[:20])
        influence.inverse_.quadratic_form(J.T)

    def fairness() -> None:
        fair = trustml.fairness.FairInfluence(model, influence=influence, pos_label=1)
        fair.fit(Xq, yq, sensitive_features=groups)

    questions: dict[str, Callable[[], object]] = {
        "fit": influence.fit,
        "influence, 20 queries": lambda: influence.scores(Xq[:20], yq[:20]),
        "Laplace variance, 20 rows": laplace,
        "fairness": fairness,
        "unlearning, 4 rows": lambda: influence.remove([1, 2, 3, 4]),
        "influence, 20 more": lambda: influence.scores(Xq[20:40], yq[20:40]),
    }
    took = {}
    for name, ask in questions.items():
        start = time.process_time()
        ask()
        took[name] = time.process_time() - start
    return took


SECTIONS = {
    "exact": exact, "auto": automatic, "batches": batch_sizes, "logistic": logistic,
    "mlp": perceptron_rows, "cg": conjugate_gradients, "hvp": hessian_products,
    "ekfac": ekfac_rows, "cnn": convolutional, "floor": floor, "memory": memory, "reuse": reuse,
}  # fmt: skip


if __name__ == "__main__":
    run_sections(SECTIONS, __doc__, HERE / "results/ihvp.json")
