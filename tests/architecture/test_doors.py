"""Each heavy dependency has one door: the files that may import it. A new dependency is a new line here."""

import ast

from tests.architecture.source import Module

DOORS: dict[str, tuple[str, ...]] = {
    "ray": ("cluster/",),
    "ray.data": (
        "platform/batches/stream.py",
        "platform/corpus/ray_tasks.py",
        "cluster/connect.py",
        "cluster/launch.py",
    ),
    "ray.train": ("cluster/", "platform/training/worker.py"),
    "ray.tune": ("sweeps/",),
    "ray.util.metrics": ("cluster/metrics.py",),
    "deepspeed": ("platform/training/deepspeed_engine.py",),
    "safetensors": ("models/weights.py",),
    "transformers": ("models/huggingface.py",),
    "peft": ("tasks/finetuned.py",),
    "torchao": ("platform/training/float8.py",),
    "jinja2": ("platform/results/table_export.py",),
    "matplotlib": (
        "platform/results/plots.py",
        "platform/results/contact_map.py",
        "sweeps/results/plots.py",
    ),
    "sklearn": ("tasks/baselines_residue.py", "tasks/baselines_protein.py", "tasks/contact_probe.py"),
    "tensorboard": ("platform/training/",),
    "torch.utils.tensorboard": ("platform/training/",),
    "typer": ("proteinlm/cli.py", "proteinlm/cli_cluster.py", "proteinlm/cli_data.py", "proteinlm/errors.py"),
    # Our own objects between the stages of a corpus build; records of others go through platform/data/unpickle.py.
    "pickle": ("platform/corpus/ray_tasks.py",),
}
WORKER_SIDE = ("platform/training/worker.py",)
DRIVER_NAMES = {"DataParallelTrainer", "TorchTrainer", "ScalingConfig", "RunConfig", "FailureConfig"}


def door(target: str) -> str | None:
    """The most exact entry of DOORS that `target` goes through, None where it needs none."""
    parts = target.split(".")
    prefixes = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in DOORS), None)


def test_the_most_exact_door_counts() -> None:
    names = ["ray.data.Dataset", "ray.get", "ray", "rayon", "torch.utils.tensorboard.SummaryWriter", "torch.nn"]
    assert [door(name) for name in names] == ["ray.data", "ray", "ray", None, "torch.utils.tensorboard", None]


def test_heavy_dependencies_come_in_by_their_doors(modules: dict[str, Module]) -> None:
    wrong = [
        f"{module.file}:{imported.line} imports {imported.target}; its door is {' or '.join(DOORS[entry])}"
        for module in modules.values()
        for imported in module.imports
        if (entry := door(imported.target)) is not None and not module.file.startswith(DOORS[entry])
    ]
    assert not wrong, "\n".join(wrong)


def test_the_worker_file_keeps_to_the_worker_side(modules: dict[str, Module]) -> None:
    wrong = [
        f"{module.file}:{imported.line} imports {imported.target}: trainers are built in cluster/"
        for module in modules.values()
        for imported in module.imports
        if module.file.startswith(WORKER_SIDE)
        and imported.target.startswith("ray.train")
        and set(imported.target.split(".")) & DRIVER_NAMES
    ]
    assert not wrong, "\n".join(wrong)


def test_models_and_tasks_stay_plain(modules: dict[str, Module]) -> None:
    wrong = [
        f"{module.file}:{imported.line} imports {imported.target}"
        for module in modules.values()
        for imported in module.imports
        if module.file.startswith(("models/", "tasks/")) and imported.target.split(".")[0] in {"ray", "deepspeed"}
    ]
    assert not wrong, "\n".join(wrong)


RENAMING = {"rename", "replace", "move", "renames"}
WHO_RENAMES = ("platform/storage/atomic.py", "models/model_directory.py")  # models/ may import nothing of the platform


def test_only_one_file_of_the_platform_renames(modules: dict[str, Module]) -> None:
    """`os.replace`, `os.rename`, `shutil.move` and `path.rename(target)`: files are put into their place in one way."""
    wrong = [
        f"{module.file}:{node.lineno} calls {ast.unparse(node.func)}"
        for module in modules.values()
        if module.file not in WHO_RENAMES
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in RENAMING
        if len(node.args) == 1 or ast.unparse(node.func.value) in {"os", "shutil", "filesystem"}
    ]
    assert wrong == []
