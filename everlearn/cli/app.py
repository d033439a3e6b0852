"""The commands."""

from collections.abc import Callable, Mapping
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any, get_origin

import typer

from everlearn import __version__
from everlearn.cli.stream import go_on, stream
from everlearn.online.settings import is_service
from everlearn.workspace.config import HELP, TYPES, Config, make, read_toml

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Models that never stop learning: teach a trained model new data without losing the old.",
)

RunFolder = Annotated[Path, typer.Argument(help="The folder of a run, or the file of weights that it makes.")]

KEPT = "How the old is kept"
_PANELS = {
    "What": ("model", "base", "weights", "data", "old", "unlabelled", "test", "memory", "out", "config"),
    KEPT: ("method", "strategy", "freeze", "norm", "compare"),
    "Data": (
        "classes", "task", "target", "features", "size", "channels", "normalize", "augment", "holdout",
    ),
    "Training": (
        "epochs", "batch_size", "optimizer", "scheduler", "clip", "accumulate", "precision", "device", "compile",
        "workers", "threads", "seed", "drop_last", "head", "coverage",
    ),
    "Checkpoints": ("checkpoint_steps", "checkpoint_seconds", "memory_on_disk"),
}  # fmt: skip
_REPEATED = ("data", "unlabelled", "test")


@app.callback(invoke_without_command=True)
def everlearn(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Models that never stop learning: teach a trained model new data without losing the old."""
    if version:
        typer.echo(f"everlearn {__version__}")
        raise typer.Exit


def learn(**given: Any) -> None:
    """Teach a trained model new data: a model that knows both, and a report that proves it."""
    from everlearn.cli.show import work
    from everlearn.workspace.opening import begin

    work(begin(_config(given)))


def transfer(**given: Any) -> None:
    """Tune a pretrained base to your data, and adapt it to rows without labels: a model, and a report.

    All is as in `learn`, which goes on from the result: --base OUT/model.safetensors.
    """
    from everlearn.cli.show import work
    from everlearn.workspace.opening import begin

    defaults = {"method": "naive", "strategy": "auto"}
    work(begin(_config(given, required=("base", "data", "out"), defaults=defaults)))


def resume(
    run: RunFolder,
    bad_rows: Annotated[
        str, typer.Option(help="Of a stream: another limit of rows that cannot be read or learned.")
    ] = "",
) -> None:
    """Go on with a run, a stream or a backtest exactly where it was interrupted."""
    if is_service(run):
        go_on(run, bad_rows)
        return
    from everlearn.cli.backtest import is_backtest, resumed
    from everlearn.cli.show import say, work
    from everlearn.workspace.folder import done, folder_of
    from everlearn.workspace.opening import resume as again

    if bad_rows:
        raise ValueError(f"--bad-rows is a limit of streams, but there is none in {run}; leave it out")
    if is_backtest(run):
        resumed(run)
    elif done(run):
        say(f"The run is done: {folder_of(run) / 'report.html'}")
    else:
        work(again(run, say))


def evaluate(**given: Any) -> None:
    """How well a model does on data, by class."""
    from everlearn.cli.show import scored

    scored(_config(given, required=("model", "weights", "data")))


def tune(**given: Any) -> None:
    """Choose settings on the first arrivals only: --method er+ewc:lambda=1..1e6 --optimizer sgd:lr=0.1|0.01."""
    from everlearn.cli.show import tried

    trials, first = given.pop("trials"), given.pop("first")
    tried(_config(given), trials, first)


def methods(name: Annotated[str, typer.Argument(help="One family, or one method in detail.")] = "") -> None:
    """What there is to keep the old, to tune and to adapt: each with its idea and its settings."""
    from everlearn.cli.show import list_methods

    list_methods(name)


def demo(
    out: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("demo"),
    method: Annotated[str, typer.Option(help="How the old is kept.")] = "er:memory=250,count=64+lwf",
) -> None:
    """A model that knows the digits 0-4 learns 5-6, 7-8 and 9, with and without protection."""
    from everlearn.cli.demo import demonstrate

    demonstrate(out, method)


def bench(  # noqa: PLR0917 (typer gives all of them by name)
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="Rows; * matches, all is all.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="Show the rows, and what they cost.")] = False,
    seeds: Annotated[int, typer.Option(help="Seeds of each row; 0 for as many as it has by itself.", min=0)] = 0,
    data: Annotated[Path | None, typer.Option(help="The folder with the data (default: EVERLEARN_DATA).")] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch MNIST into that folder first.")] = False,
    processes: Annotated[int, typer.Option(help="Runs at a time, one thread each; 0 for all cores.", min=0)] = 0,
    device: Annotated[str, typer.Option(help="For rows that can run elsewhere than on the CPU: cuda, mps ...")] = "",
    out: Annotated[Path, typer.Option(help="The JSON file; what is done is kept beside it.")] = Path("published.json"),
    docs: Annotated[
        Path | None, typer.Option(exists=True, help="A page, or a folder of them, whose tables are written anew.")
    ] = None,
) -> None:
    """Run published results again: ours beside theirs. What is done is not run twice."""
    from everlearn.cli.bench import list_rows, rerun

    if list_ or not names:
        list_rows()
    else:
        rerun(names, seeds=seeds, data=data, processes=processes, out=out, docs=docs, fetch=download, device=device)


def choose(  # noqa: PLR0917 (typer gives all of them by name)
    data: Annotated[Path, typer.Option(help="Training rows with labels, as learn takes them.", metavar="PATH")],
    bases: Annotated[
        str,
        typer.Option(
            help="Joined by commas: torchvision:NAME, timm:NAME, hf:NAME, FILE.py:NAME, or a saved .safetensors.",
            metavar="A,B,...",
        ),
    ],
    weights: Annotated[
        list[str] | None,
        typer.Option(help="The weights of a base that has none of its own; repeat.", metavar="BASE=FILE"),
    ] = None,
    normalize: Annotated[
        list[str] | None,
        typer.Option(help="What a base was trained on, if not what its library says; repeat.", metavar="BASE=VALUE"),
    ] = None,
    rows: Annotated[int, typer.Option(help="Look at this many rows at most, of each class its share.", min=4)] = 2000,
    score: Annotated[str, typer.Option(help="What ranks them; ridge is there, too.")] = "logme,h-score,n-leep,knn",
    out: Annotated[Path | None, typer.Option(help="Written: FILE.json, .svg or .html.", metavar="FILE")] = None,
    ood: Annotated[bool, typer.Option("--ood", help="Rows unlike the training rows will matter.")] = False,
    size: Annotated[int, typer.Option(help="Read images at this size; 0 for each base's own.", min=0)] = 0,
    device: Annotated[str, typer.Option(help="Where the bases run.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Of the rows that are looked at.")] = 0,
) -> None:
    """Which pretrained base to begin with: scores against costs, and a strategy with its reason."""
    from everlearn.cli.choose import compared

    compared(
        data, bases, weights or [], normalize=normalize or [], scores=score, most=rows, out=out,
        out_of_distribution=ood, size=size, device=device, seed=seed,
    )  # fmt: skip


def backtest(  # noqa: PLR0917 (typer gives all of them by name)
    log: Annotated[str, typer.Argument(help="Rows in time order: PATH.csv, .jsonl, .parquet, or a stream.")],
    out: Annotated[Path, typer.Option(help="The folder of the report; the same command goes on there.")],
    policy: Annotated[
        list[str] | None,
        typer.Option(
            help="never, retrain:every=7d,window=30d, finetune:every=1000, online, er:memory=1000, odl, drift, ...: "
            "repeat; a method behind a + holds on to the old.",
            metavar="NAME:KEY=VALUE,...",
        ),
    ] = None,
    label: Annotated[str, typer.Option(help="The column of the label.", rich_help_panel="Log")] = "",
    time: Annotated[str, typer.Option(help="The column of the time of a row.", rich_help_panel="Log")] = "",
    id: Annotated[str, typer.Option(help="The column that names a row.", rich_help_panel="Log")] = "",  # noqa: A002
    features: Annotated[
        str, typer.Option(help="The columns to learn from.", metavar="A,B,...", rich_help_panel="Log")
    ] = "",
    texts: Annotated[
        str, typer.Option(help="Columns of texts, even if they look like numbers.", rich_help_panel="Log")
    ] = "",
    label_delay: Annotated[str, typer.Option(help="How late labels are: 3d, or 500 rows.", rich_help_panel="Log")] = "",
    label_time: Annotated[
        str, typer.Option(help="The column of the time at which the label was known.", rich_help_panel="Log")
    ] = "",
    warmup: Annotated[
        str, typer.Option(help="What all are trained on first: a share or rows.", rich_help_panel="Log")
    ] = "10%",
    sort: Annotated[bool, typer.Option("--sort", help="Put the log in order of time.", rich_help_panel="Log")] = False,
    task: Annotated[
        str, typer.Option(help="classification or regression.", rich_help_panel="Training")
    ] = "classification",
    model: Annotated[
        str,
        typer.Option(
            help="mlp:hidden=64x64, linear, or FILE.py:NAME(...) with --features and --classes that fit it.",
            rich_help_panel="Training",
        ),
    ] = "mlp:hidden=64x64",
    classes: Annotated[
        str,
        typer.Option(
            help="Of a model of fixed size, in the order of its outputs.", metavar="A,B,...", rich_help_panel="Training"
        ),
    ] = "",
    encoder: Annotated[
        str, typer.Option(help="table, or words:buckets=4096 for rows that are texts.", rich_help_panel="Training")
    ] = "table",
    optimizer: Annotated[
        str, typer.Option(help="Any of torch.optim, with its settings.", rich_help_panel="Training")
    ] = "adam:lr=0.001",
    epochs: Annotated[
        int, typer.Option(help="Passes of the warm-up and of periodic updates.", rich_help_panel="Training")
    ] = 20,
    batch_size: Annotated[int, typer.Option(help="Rows of a batch in these.", rich_help_panel="Training")] = 32,
    clip: Annotated[float, typer.Option(help="The largest norm of a gradient.", rich_help_panel="Training")] = 0.0,
    scale: Annotated[bool, typer.Option(help="Standardise columns.", rich_help_panel="Training")] = True,
    seed: Annotated[int, typer.Option(help="Names all random choices.", rich_help_panel="Training")] = 0,
) -> None:
    """What would each way of updating a model have cost and given? Replays a log with the delay of its labels."""
    from everlearn.cli.backtest import replayed

    replayed(
        log=log, out=str(out), policies=tuple(policy or ()), label=label, time=time, id=id, features=_names(features),
        texts=_names(texts), label_delay=label_delay, label_time=label_time, warmup=warmup, sort=sort, task=task,
        model=model, classes=_names(classes), encoder=encoder, optimizer=optimizer, epochs=epochs,
        batch_size=batch_size, clip=clip, scale=scale, seed=seed,
    )  # fmt: skip


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _config(
    given: dict[str, Any], required: tuple[str, ...] | None = None, defaults: Mapping[str, Any] | None = None
) -> Config:
    """Settings from a file, overruled by flags; `defaults` are for what neither says."""
    flags = {
        name: list(value) if isinstance(value, tuple) else value for name, value in given.items() if name != "config"
    }
    flags = {name: value for name, value in flags.items() if value not in (None, [])}
    for name, value in flags.items():
        if isinstance(value, list) and name not in _REPEATED:
            flags[name] = [item.strip() for part in value for item in part.split(",")]
    toml = read_toml(given["config"]) if given.get("config") else {}
    underscored = {name.replace("-", "_"): value for name, value in toml.items()}
    merged = {**(defaults or {}), **underscored, **flags}
    if merged.get("unlabelled"):
        merged.setdefault("compare", True)  # what an adaptation is worth shows beside the control only
    return make(merged, given.get("config") or "", required)


def _flags(
    function: Callable[..., None],
    names: list[str],
    *others: Parameter,
    help: Mapping[str, str] | None = None,  # noqa: A002 (as typer has it)
    kept: str = KEPT,
) -> Callable[..., None]:
    """The function with a flag for each setting, and the help that stands beside it in the config, or in `help`.

    `kept` is the title of the panel of methods.
    """
    panel = {name: kept if title == KEPT else title for title, members in _PANELS.items() for name in members}
    parameters = []
    for name in sorted([*names, "config"], key=list(panel).index):
        kind: Any = TYPES.get(name, str)
        if get_origin(kind) is tuple:
            kind = list[str]
        default = Config.__dataclass_fields__[name].default if name in TYPES else ""
        shown = f" (default: {default})" if default not in ("", (), False, 0) else ""
        own = (help or {}).get(name)
        help_ = own or HELP.get(name, "A TOML file of settings; flags win.") + shown
        option = typer.Option(help=help_, rich_help_panel=panel[name], metavar=_METAVARS.get(name), show_default=False)
        parameters.append(
            Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option])
        )
    parameters += others
    function.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return function


_METAVARS = {
    **dict.fromkeys(("data", "old", "unlabelled", "test", "out"), "PATH"),
    **dict.fromkeys(("weights", "memory", "config"), "FILE"),
    **dict.fromkeys(("classes", "features", "augment", "freeze"), "A,B,..."),
    **dict.fromkeys(("base", "strategy"), "NAME"),
    **dict.fromkeys(("method", "optimizer", "scheduler"), "NAME:..."),
    "model": "FILE:NAME",
}
_EVALUATION = [
    *("model", "base", "weights", "data", "classes", "task", "target", "features", "size", "channels", "normalize"),
    *("head", "coverage", "device", "batch_size", "threads"),
]


_OF_TRANSFER = ("strategy", "unlabelled")
_NOT_TRANSFER = ("model", "old", "memory")
_OF_A_BASE = {
    "base": "The pretrained model to begin with: torchvision:NAME, timm:NAME, hf:NAME, FILE.py:NAME, or the "
    "model.safetensors of a run. Its head is fitted to the classes, its input is prepared as its own config says.",
    "weights": "Those of the base: a file (.pth, .pt or .safetensors), default for what its library has, or none "
    "(default: default where there are some, else none).",
    "data": "Rows with labels: class folders of images, x.npy and y.npy, .npz, .csv, .parquet, .jsonl; several are "
    "learned in turn.",
    "test": "Test data: one set for each of --data, or also one for each of --unlabelled; without it, rows of --data "
    "are held out.",
    "out": "The tuned weights (NAME.pth; the run's folder is then NAME), or the run's folder.",
    "method": "A method to be put around the strategy, as in er:memory=2000 for several --data.",
    "strategy": "How the base is tuned: probe, finetune, lpft, l2sp, ..., or for --unlabelled dann, mcc, ...; joined "
    "by +; auto: what the amount of data speaks for. See everlearn methods. (default: auto)",
    "compare": "Also train by plain fine-tuning on the same rows: the control, by itself where there is --unlabelled.",
    "classes": "The names of the classes, in the order of the outputs (default: as the data has them).",
    "holdout": "The share of the rows with labels that is kept for testing where no test data is given. (default: 0.2)",
}
_OF_EVALUATION = {
    "weights": "The weights: .pth, .pt or .safetensors.",
    "data": "Rows with labels: class folders of images, x.npy and y.npy, .npz, .csv, .parquet, .jsonl.",
}
_OF_LEARN = [name for name in TYPES if name not in _OF_TRANSFER]
_TRIALS = Annotated[int, typer.Option(help="How many settings are tried in all.", min=1, rich_help_panel="Trials")]
_FIRST = Annotated[
    int, typer.Option(help="How many of the arrivals a trial may learn from.", min=1, rich_help_panel="Trials")
]

app.command()(_flags(learn, _OF_LEARN))
app.command()(
    _flags(
        transfer,
        [name for name in TYPES if name not in _NOT_TRANSFER],
        help=_OF_A_BASE,
        kept="How the base is tuned",
    )
)
app.command()(stream)
app.command()(resume)
app.command()(_flags(evaluate, _EVALUATION, help=_OF_EVALUATION))
app.command()(
    _flags(
        tune,
        _OF_LEARN,
        Parameter("trials", Parameter.KEYWORD_ONLY, default=20, annotation=_TRIALS),
        Parameter("first", Parameter.KEYWORD_ONLY, default=1, annotation=_FIRST),
    )
)
app.command()(choose)
app.command()(methods)
app.command()(demo)
app.command()(bench)
app.command()(backtest)
