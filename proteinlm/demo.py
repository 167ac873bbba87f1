"""`proteinlm demo`: the whole road on this machine with simulated proteins, through the verbs that users type."""

from pathlib import Path

from rich.console import Console
from rich.text import Text

FAMILIES, PROTEINS_PER_FAMILY, SEED = 240, 40, 0


def run_demo(out: Path, console: Console) -> None:
    """Simulate, build a corpus, pretrain on two workers, sweep two shapes with finetuning; table and picture.

    Run again, it goes on where it stopped and repeats nothing that is finished.
    """
    from proteinlm.cluster.connect import connected

    with connected():
        simulated = _simulate(out, console)
        _build_corpus(out, simulated, console)
        _pretrain(out, console)
        _sweep(out, console)
    _table_and_picture(out, console)


def _type(console: Console, command: str) -> None:
    console.print(Text(f"\n$ proteinlm {command}", "bold"))


def _simulate(out: Path, console: Console) -> Path:
    from proteinlm.platform.simulated.proteins import simulate

    folder = out / "simulated"
    console.print(f"Simulated proteins, not real ones: {FAMILIES} families evolve along trees into {folder}")
    simulate(folder, num_families=FAMILIES, proteins_per_family=PROTEINS_PER_FAMILY, seed=SEED)
    return folder


def _build_corpus(out: Path, simulated: Path, console: Console) -> None:
    from proteinlm.platform.corpus.build import build_corpus
    from proteinlm.platform.corpus.stats import corpus_stats, render
    from proteinlm.platform.settings.config import CorpusConfig

    corpus, fasta, clans = out / "corpus", simulated / "simulated.fasta", simulated / "clans.tsv"
    options = "--shard-rows 1024 --holdout-fraction 0.05 --simulated"
    _type(console, f"corpus build {fasta} --clans {clans} --out {corpus} {options}")
    if not corpus.exists():
        config = CorpusConfig(
            sources=(fasta,), out=corpus, clans=clans, shard_rows=1024, holdout_fraction=0.05, is_simulated=True
        )
        build_corpus(config)
    _type(console, f"corpus stats {corpus}")
    console.print(render(corpus_stats(corpus)))


def _pretrain(out: Path, console: Console) -> None:
    from proteinlm.platform.pretrain import pretrain
    from proteinlm.platform.settings.config import PretrainConfig
    from proteinlm.platform.settings.loading import load_settings

    file, settings = _shipped("platform/configs/demo.yaml"), [f"corpus={out / 'corpus'}", f"storage={out}"]
    _type(console, " ".join(["pretrain", str(file), *settings]))
    pretrain(load_settings(PretrainConfig, file, settings), console)


def _sweep(out: Path, console: Console) -> None:
    from proteinlm.sweeps.planning.plan import load_sweep
    from proteinlm.sweeps.sweep import sweep

    file = _shipped("sweeps/demo.yaml")
    settings = [f"pretrain.corpus={out / 'corpus'}", f"finetune.data={out / 'simulated'}", f"storage={out}"]
    _type(console, " ".join(["sweep", str(file), *settings]))
    failed = sweep(load_sweep(file, settings), console)
    if failed:
        raise RuntimeError(f"trials that did not finish: {', '.join(failed)}")


def _table_and_picture(out: Path, console: Console) -> None:
    from proteinlm.platform.results.comparison import make_tables
    from proteinlm.platform.results.plots import plot_curves
    from proteinlm.platform.results.rows import gather_rows
    from proteinlm.platform.results.table_text import render, to_markdown
    from proteinlm.platform.training.tracking import read_metrics

    _type(console, f"table {out}")
    rows = gather_rows([out])
    tables = make_tables(rows)
    render(tables, console)
    (out / "table.md").write_text(to_markdown(*tables))
    pretrained = {row.run for row in rows if row.kind == "pretrain"}
    runs = {path.parent.name: read_metrics(path.parent) for path in sorted(out.rglob("metrics.jsonl"))}
    curves = {name: metrics for name, metrics in runs.items() if name in pretrained}
    floors = {row.split: row.floor for row in rows if row.metric == "loss" and row.floor is not None}
    for kind in ("png", "svg"):
        plot_curves(curves, out / f"loss.{kind}", floors=floors, is_simulated=True)
    console.print(f"table: {out / 'table.md'}   loss curves: {out / 'loss.png'}   (simulated proteins throughout)")


def _shipped(name: str) -> Path:
    """A YAML file of the package, by the path that a user in a clone would type."""
    here = Path(name)
    return here if here.is_file() else Path(__file__).resolve().parent / name
