"""Speed of training and prediction beside other implementations: `benchmarks/training.py --help`.

Every implementation is a separate process with the same number of threads, and they alternate (A B C, A B C ...), so
that other load affects all of them equally; the ratios are medians over the rounds. The ratio of processor time counts
all threads, waiting included, and is valid on a busy machine as well.

"seed" is the seed's loop: nn.TransformerEncoder, TensorDataset, DataLoader, Adam, .item() each step. "HF" is
transformers' PatchTSTForClassification in the same loop. "ours" is the program's training loop, including
gathering of windows and input transform; "plain" the same with the plain module; "without" one ingredient of the fast
path (`--only ingredients`, which the default leaves out). "W^X" is "ours" without writable and
executable memory, as under MemoryDenyWriteExecute=. First, outputs and gradients are compared at equal weights. About
eight minutes on two idle cores. onnxruntime is included where it is installed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from retrain_worker.domain.recipe import Balance, InputTransform, Precision, Preset, Recipe
from retrain_worker.model import patchtst, presets
from retrain_worker.model.patchtst import PatchTST, PatchTSTConfig
from retrain_worker.worker import compute
from retrain_worker.worker.data.samples import Samples, windows
from retrain_worker.worker.stop_signal import StoppedError
from retrain_worker.worker.training import fast_path, loop
from retrain_worker.worker.training.adamw import AdamW
from retrain_worker.worker.training.fast_path import FastPath, PlainPath
from retrain_worker.worker.training.loop import FitAttempt, TrainingSet
from retrain_worker.worker.training.process_group import ALONE
from retrain_worker.worker.training.smoothing import PatchSmoothing

if TYPE_CHECKING:
    import transformers

ENGINE = presets.engine(num_features=8, dropout=0.1)
#: the size of the paper's own experiments
PAPER = dataclasses.replace(
    presets.paper(num_features=8, context_length=128, input_transform=InputTransform.INSTANCE, dropout=0.2),
    d_model=128,
    num_layers=3,
    num_heads=16,
    ffn_dim=256,
    head_hidden=0,
    pooling="mean",
)
#: the program's default size
OURS = presets.paper(num_features=4, context_length=64, input_transform=InputTransform.INSTANCE, dropout=0.4)
OURS = dataclasses.replace(OURS, head_hidden=0, pooling="mean")  # as transformers' module, which has no other

#: starts python without writable and executable memory: PR_SET_MDWE, refuse exec gain
FORBIDDEN = """
import ctypes, os, sys
if ctypes.CDLL(None, use_errno=True).prctl(65, 1, 0, 0, 0):
    raise OSError(ctypes.get_errno(), "PR_SET_MDWE")
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
TURN_SECONDS = 0.4
MARKET_ROWS = 20_000
NOW = datetime(2026, 1, 10, tzinfo=UTC)
#: distance from the Bayes-optimal AUC on the holdout
NEAR = 0.02


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contestant:
    """One implementation."""

    way: str  # seed | HF | plain | ours | without ...
    config: PatchTSTConfig
    batch: int
    precision: str = "fp32"
    is_forbidden: bool = False

    @property
    def name(self) -> str:
        """The name in the table."""
        extra = [self.precision] if self.way == "ours" else []
        return ", ".join([self.way, *extra, *(["W^X"] if self.is_forbidden else [])])


SECTIONS = {
    "engine": [
        Contestant(way="seed", config=ENGINE, batch=32),
        Contestant(way="plain", config=ENGINE, batch=32),
        Contestant(way="ours", config=ENGINE, batch=32),
        Contestant(way="ours", config=ENGINE, batch=32, is_forbidden=True),
        Contestant(way="ours", config=ENGINE, batch=32, precision="bf16"),
        Contestant(way="seed", config=ENGINE, batch=256),
        Contestant(way="ours", config=ENGINE, batch=256),
        Contestant(way="ours", config=ENGINE, batch=256, is_forbidden=True),
        Contestant(way="ours", config=ENGINE, batch=256, precision="bf16"),
    ],
    "paper": [
        Contestant(way="HF", config=PAPER, batch=64),
        Contestant(way="plain", config=PAPER, batch=64),
        Contestant(way="ours", config=PAPER, batch=64),
        Contestant(way="ours", config=PAPER, batch=64, is_forbidden=True),
        Contestant(way="ours", config=PAPER, batch=64, precision="bf16"),
    ],
    "paper as trained by default": [
        Contestant(way="HF", config=OURS, batch=128),
        Contestant(way="plain", config=OURS, batch=128),
        Contestant(way="ours", config=OURS, batch=128),
        Contestant(way="ours", config=OURS, batch=128, is_forbidden=True),
        Contestant(way="ours", config=OURS, batch=128, precision="bf16"),
    ],
}


def without_byte_masks() -> None:
    """One draw of torch per number."""

    def new_mask(self: fast_path._Dropout) -> Tensor:
        kept = 1 - self._dropped / fast_path.BYTE
        return self.mask.bernoulli_(kept).mul_(1 / kept)

    patch.object(fast_path._Dropout, "_new_mask", new_mask).start()


def without_softmax() -> None:
    """The softmax of torch."""
    patch.object(fast_path, "_softmax", lambda scores: scores.copy_(torch.softmax(scores, -1))).start()


WITHOUT: dict[str, Callable[[], None]] = {
    "without byte masks": without_byte_masks,
    "without the elementwise softmax": without_softmax,
    "without shards": lambda: None,
}
for _name, _config, _batch in (("engine", ENGINE, 32), ("paper as trained by default", OURS, 128)):
    SECTIONS[f"ingredients: {_name}"] = [
        Contestant(way=way, config=_config, batch=_batch) for way in ("ours", "plain", *WITHOUT)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9, help="turns of each implementation (default 9)")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=["engine", "paper", "default", "quality", "inference", "ingredients"],
        default=["engine", "paper", "default", "quality", "inference"],
    )
    parser.add_argument("--limit", type=float, default=240.0, help="seconds after which a slow learner is stopped")
    parser.add_argument("--contestant", nargs=2, metavar=("SECTION", "NUMBER"), help=argparse.SUPPRESS)
    parser.add_argument("--learner", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.contestant:
        section, number = asked.contestant
        take_turns(SECTIONS[section][int(number)], threads=asked.threads)
        return
    if asked.learner:
        print(json.dumps(LEARNERS[asked.learner](asked.folder, threads=asked.threads, limit=asked.limit)))
        return
    for short, section in (("engine",) * 2, ("paper",) * 2, ("default", "paper as trained by default")):
        if short in asked.only:
            compare(section, threads=asked.threads, rounds=asked.rounds)
    if "ingredients" in asked.only:
        for section in (name for name in SECTIONS if name.startswith("ingredients")):
            compare(section, threads=asked.threads, rounds=asked.rounds)
    if "quality" in asked.only:
        compare_learners(threads=asked.threads, limit=asked.limit)
    if "inference" in asked.only:
        compare_answers(threads=asked.threads)


# ---------------------------------------------------------------- training


def compare(section: str, *, threads: int, rounds: int) -> None:
    """Alternate the implementations of a section; print a line for each."""
    # without bf16 units, bf16 is computed in fp32
    numbers = [
        number for number, each in enumerate(SECTIONS[section]) if each.precision == "fp32" or compute._has_bf16_units()
    ]
    contestants = [SECTIONS[section][number] for number in numbers]
    equality = f"; {parity(contestants[0])}" if contestants[0].way in ("seed", "HF") else ""
    print(f"\n### {section}: {threads} threads{equality}\n")
    print("| implementation | batch | ms/step | samples/s | ratio | ratio of processor time |")
    print("|---|---|---|---|---|---|", flush=True)
    with ExitStack() as stack:
        processes = [stack.enter_context(started(section, number, threads)) for number in numbers]
        for process in processes:
            turn(process)  # warm-up
        turns = [[turn(process) for process in processes] for _ in range(rounds)]
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
    for number, contestant in enumerate(contestants):
        seconds = [each[number].seconds for each in turns]
        ratios, of_cpu = (
            median(getattr(each[0], what) / getattr(each[number], what) for each in turns)
            * contestant.batch
            / contestants[0].batch
            for what in ("seconds", "cpu_seconds")
        )
        print(
            f"| {contestant.name} | {contestant.batch} | {median(seconds) * 1e3:.1f} "
            f"| {contestant.batch / median(seconds):,.0f} | {ratios:.2f} | {of_cpu:.2f} |",
            flush=True,
        )


def started(section: str, number: int, threads: int) -> subprocess.Popen[str]:
    launcher = ["-c", FORBIDDEN] if SECTIONS[section][number].is_forbidden else []
    return subprocess.Popen(
        [sys.executable, *launcher, __file__, "--contestant", section, str(number), "--threads", str(threads)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Turn:
    """One step in one turn."""

    seconds: float
    #: of all threads
    cpu_seconds: float


def turn(process: subprocess.Popen[str]) -> Turn:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    return Turn(**json.loads(process.stdout.readline()))


def take_turns(contestant: Contestant, *, threads: int) -> None:
    """Each line of stdin is a turn: train for at least TURN_SECONDS, print the duration of a step."""
    torch.manual_seed(1)
    torch.set_num_threads(threads)
    train = plain_loop if contestant.way in ("seed", "HF") else our_loop
    WITHOUT.get(contestant.way, lambda: None)()
    blocks = train(contestant, threads)
    steps = next(blocks)
    for _ in sys.stdin:
        seconds: list[float] = []
        until, cpu_started, count = time.perf_counter() + TURN_SECONDS, time.process_time(), 0
        while not seconds or time.perf_counter() < until:
            started_at = time.perf_counter()
            count += next(blocks)
            seconds.append((time.perf_counter() - started_at) / steps)
        cpu_seconds = (time.process_time() - cpu_started) / count
        print(json.dumps({"seconds": median(seconds), "cpu_seconds": cpu_seconds}), flush=True)


def block_steps(contestant: Contestant) -> int:
    """Steps between two readings of the clock: about 50 ms."""
    tokens = contestant.batch * contestant.config.num_series * contestant.config.num_patches
    return max(1, round(2**18 / tokens / contestant.config.d_model))


def plain_loop(contestant: Contestant, _threads: int) -> Iterator[int]:
    """A straightforward loop; yields the steps of each block."""
    config, steps = contestant.config, block_steps(contestant)
    model = EngineNetwork(config) if contestant.way == "seed" else hugging_face(config)
    model.train()
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-4)
    x = torch.randn(steps * contestant.batch, config.context_length, config.num_channels)
    data = torch.utils.data.TensorDataset(x, torch.randint(0, 2, (len(x),)).float())
    loader = torch.utils.data.DataLoader(data, batch_size=contestant.batch, shuffle=True)
    while True:
        for windows_BTF, labels in loader:
            optimiser.zero_grad()
            loss = functional.binary_cross_entropy_with_logits(model(windows_BTF), labels)
            loss.backward()
            optimiser.step()
            loss.item()
        yield steps


def our_loop(contestant: Contestant, threads: int) -> Iterator[int]:
    """An epoch of the program's loop is a block; yields its steps."""
    compute.prepare(device="cpu", threads=threads)
    config, steps = contestant.config, block_steps(contestant)
    training_set = random_training_set(config, samples=steps * contestant.batch)
    recipe = dataclasses.replace(Recipe(), batch_size=contestant.batch, balance=Balance.NONE)
    model = PatchTST(config)
    if contestant.way == "plain":
        path = PlainPath(model)
    else:
        path = FastPath(model, threads=1 if contestant.way == "without shards" else threads)
    entered = ExitStack() if contestant.way == "without shards" else path  # torch keeps its threads
    optimiser = AdamW(path.parameters, weight_decay=1e-2)
    attempt = FitAttempt(config=config, seed=1, learning_rate=3e-4)
    smoothing = PatchSmoothing(model, 0.0)
    schedule = loop._Schedule(attempt, recipe, num_samples=len(training_set.train))
    with entered, compute.products_in(Precision(contestant.precision)):
        while True:
            loop._one_epoch(
                1,
                path,
                optimiser,
                schedule=schedule,
                smoothing=smoothing,
                seed=1,
                training_set=training_set,
                recipe=recipe,
                stopping=lambda: False,
                group=ALONE,
            )
            yield steps


def random_training_set(config: PatchTSTConfig, *, samples: int) -> TrainingSet:
    random = np.random.default_rng(1)
    rows = samples + config.context_length
    part = Samples(
        positions=np.arange(config.context_length, rows, dtype=np.int64),
        decided_at=np.arange(samples),
        labels=random.integers(0, 2, samples).astype(np.int8),
        known_at=np.arange(samples) + 1,
        symbol_codes=np.zeros(samples, dtype=np.int32),
    )
    features = random.normal(size=(rows, config.num_features)).astype(np.float32)
    return TrainingSet(features=features, fitting_rows=features, train=part, validation=part)


# ---------------------------------------------------------------- other implementations and their equality


class EngineNetwork(nn.Module):
    """The engine's network from torch's modules, as the seed builds it."""

    def __init__(self, config: PatchTSTConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embedding = nn.Linear(config.patch_width, config.d_model)
        self.pos_encoding = nn.Parameter(torch.randn(1, config.num_patches, config.d_model))
        layer = nn.TransformerEncoderLayer(
            config.d_model, config.num_heads, config.ffn_dim, config.dropout, batch_first=True
        )
        self.transformer = nn.TransformerEncoder(layer, config.num_layers, enable_nested_tensor=False)
        self.output_proj = nn.Linear(config.d_model, 1)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Logits (B,)."""
        patches = x_BTC.reshape(len(x_BTC), self.config.num_patches, self.config.patch_width)
        z = self.transformer(self.patch_embedding(patches) + self.pos_encoding)
        logits: Tensor = self.output_proj(z.mean(dim=1))
        return logits.squeeze(-1)


class HuggingFace(nn.Module):
    """transformers' module, with one logit."""

    def __init__(self, module: transformers.PatchTSTForClassification) -> None:
        super().__init__()
        self.module = module

    def forward(self, x_BTF: Tensor) -> Tensor:
        """Logits (B,)."""
        logits: Tensor = self.module(past_values=x_BTF).prediction_logits
        return logits.squeeze(-1)


def hugging_face(config: PatchTSTConfig) -> HuggingFace:
    import transformers

    return HuggingFace(
        transformers.PatchTSTForClassification(
            transformers.PatchTSTConfig(
                num_input_channels=config.num_features,
                context_length=config.context_length,
                patch_length=config.patch_length,
                patch_stride=config.patch_stride,
                num_hidden_layers=config.num_layers,
                d_model=config.d_model,
                num_attention_heads=config.num_heads,
                ffn_dim=config.ffn_dim,
                norm_type=config.norm,
                pre_norm=config.is_pre_norm,
                activation_function=config.activation,
                pooling_type=config.pooling,
                num_targets=1,
                use_cls_token=False,
                scaling="std" if config.input_transform == InputTransform.INSTANCE else None,
                attention_dropout=config.dropout,
                path_dropout=config.dropout,
                ff_dropout=config.dropout,
            )
        )
    )


def renamed(values: dict[str, Tensor], num_layers: int) -> dict[str, Tensor]:
    """Weights, or their gradients, of transformers' module under this program's names."""
    ours = {
        "pos_encoding": values["model.encoder.positional_encoder.position_enc"][None],
        "output_proj.weight": values["head.linear.weight"],
        "output_proj.bias": values["head.linear.bias"],
    }
    for part in ("weight", "bias"):
        ours[f"patch_embedding.{part}"] = values[f"model.encoder.embedder.input_embedding.{part}"]
        for i in range(num_layers):
            there, here = f"model.encoder.layers.{i}.", f"transformer.layers.{i}."
            ours[f"{here}self_attn.in_proj_{part}"] = torch.cat(
                [values[f"{there}self_attn.{name}_proj.{part}"] for name in "qkv"]
            )
            for theirs, name in (
                ("self_attn.out_proj", "self_attn.out_proj"),
                ("ff.0", "linear1"),
                ("ff.3", "linear2"),
                ("norm_sublayer1.batchnorm", "norm1"),
                ("norm_sublayer3.batchnorm", "norm2"),
            ):
                ours[f"{here}{name}.{part}"] = values[f"{there}{theirs}.{part}"]
    return ours


def gradients_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: each.grad for name, each in module.named_parameters() if each.grad is not None}


def parity(baseline: Contestant) -> str:
    """The largest differences of outputs and gradients between the baseline and ours, at equal weights, no dropout."""
    torch.manual_seed(2)
    config = dataclasses.replace(baseline.config, dropout=0.0)
    raw = torch.randn(baseline.batch, config.context_length, config.num_features)
    labels = torch.randint(0, 2, (len(raw),)).float()
    ours = PatchTST(config).train()
    theirs: EngineNetwork | HuggingFace
    if baseline.way == "seed":
        theirs = EngineNetwork(config)
        ours.load_state_dict(theirs.state_dict())
    else:
        theirs = hugging_face(config)
        theirs.module.model.encoder.positional_encoder.position_enc.requires_grad_()
        ours.load_state_dict(renamed(dict(theirs.module.named_parameters()), config.num_layers), strict=False)
    expected = theirs.train()(ours.transform(raw) if baseline.way == "seed" else raw)
    functional.binary_cross_entropy_with_logits(expected, labels).backward()
    if isinstance(theirs, HuggingFace):
        gradients = renamed(gradients_of(theirs.module), config.num_layers)
    else:
        gradients = gradients_of(theirs)
    with FastPath(ours, threads=2) as path:
        found = path(raw)
        functional.binary_cross_entropy_with_logits(found, labels).backward()
    error = max(float((each - gradients[name]).abs().max()) for name, each in gradients_of(ours).items())
    longest = max(float(each.abs().max()) for each in gradients.values())
    apart = float((found - expected).detach().abs().max())
    return f"at equal weights outputs differ by {apart:.1e}, gradients by {error:.1e} (largest {longest:.1e})"


# ---------------------------------------------------------------- seconds to a good model


def compare_learners(*, threads: int, limit: float) -> None:
    with tempfile.TemporaryDirectory(prefix="training") as name:
        bayes = write_market_snapshot(Path(name))
        print(
            f"\n### seconds until the holdout AUC is within {NEAR} of the Bayes-optimal ({bayes:.3f}): "
            f"{MARKET_ROWS:,} rows, {threads} threads\n"
        )
        print("| learner | epochs | seconds | ratio | processor s | AUC then | best AUC |")
        print("|---|---|---|---|---|---|---|", flush=True)
        ours = None
        for learner in LEARNERS:
            command = [
                sys.executable,
                __file__,
                "--learner",
                learner,
                "--folder",
                name,
                "--threads",
                str(threads),
                "--limit",
                str(limit),
            ]
            each = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            ours = ours or each["seconds"]
            sign = "" if each["reached"] else "> "
            print(
                f"| {learner} | {each['epochs']} | {sign}{each['seconds']:.1f} | {sign}{each['seconds'] / ours:.1f} "
                f"| {each['cpu']:.1f} | {each['auc']:.3f} | {each['best']:.3f} |",
                flush=True,
            )


def write_market_snapshot(folder: Path) -> float:
    """A market, read by the stage PULL; the AUC of the Bayes-optimal classifier on its holdout."""
    from retrain_worker.demo.market import write_market
    from retrain_worker.domain.data_policy import DataPolicy
    from retrain_worker.domain.worker_protocol import PullRequest
    from retrain_worker.worker.data.pull import pull
    from retrain_worker.worker.data.snapshot import load

    market = write_market(folder / "market.db", seed=7, end=NOW, rows=MARKET_ROWS, open_rows=100, days=90.0)
    policy = dataclasses.replace(DataPolicy(), train_window_days=0)
    pull(
        PullRequest(run_id="x", run_dir=str(folder), policy=policy, watermark_path=None, now=NOW.isoformat()),
        f"sqlite:///{folder / 'market.db'}",
        lambda _progress: None,
    )
    snapshot = load(folder)
    bayes = market.bayes_auc(snapshot.ids[parts_of(folder)[1].holdout.positions])
    (folder / "bayes.json").write_text(json.dumps(bayes))
    return bayes


def parts_of(folder: Path) -> tuple[Any, Any]:
    from retrain_worker.domain.data_policy import DataPolicy
    from retrain_worker.domain.split_policy import SplitPolicy
    from retrain_worker.worker.data.samples import select_samples, split_samples
    from retrain_worker.worker.data.snapshot import load

    snapshot = load(folder)
    samples = select_samples(snapshot, policy=DataPolicy(), seq_len=Recipe().seq_len)
    return snapshot, split_samples(samples, SplitPolicy())


class Watch:
    """Stops the clock during the evaluation of the holdout."""

    def __init__(self, folder: Path, *, limit: float) -> None:
        self.goal, self.limit = json.loads((folder / "bayes.json").read_text()) - NEAR, limit
        self.snapshot, self.parts = parts_of(folder)
        self.aucs: list[float] = []
        self.seconds = self.cpu = 0.0

    def start(self) -> None:
        """Start the clock."""
        self._started, self._cpu_started = time.perf_counter(), time.process_time()

    def is_over(self, answers: Callable[[], np.ndarray]) -> bool:
        """Evaluate the predictions on the holdout; True when the target is reached."""
        from sklearn.metrics import roc_auc_score

        self.seconds += time.perf_counter() - self._started
        self.cpu += time.process_time() - self._cpu_started
        self.aucs.append(float(roc_auc_score(self.parts.holdout.labels, answers())))
        self.start()
        return self.aucs[-1] >= self.goal or self.seconds > self.limit

    def facts(self) -> dict[str, Any]:
        """The line of the table."""
        return {
            "epochs": len(self.aucs),
            "seconds": self.seconds,
            "cpu": self.cpu,
            "auc": self.aucs[-1],
            "best": max(self.aucs),
            "reached": self.aucs[-1] >= self.goal,
        }


def learn_ours(folder: Path, *, threads: int, limit: float) -> dict[str, Any]:
    """The program's configuration, including its schedule and the validation of every epoch."""
    from retrain_worker.worker.inference import logits_at

    device = compute.prepare(device="cpu", threads=threads)
    watch, recipe = Watch(folder, limit=limit), Recipe()
    features = np.ascontiguousarray(watch.snapshot.features)
    is_seen = watch.snapshot.decided_at <= watch.parts.train.decided_at.max()
    training_set = TrainingSet(
        features=features, fitting_rows=features[is_seen], train=watch.parts.train, validation=watch.parts.validation
    )
    tuning = recipe.tunings(Preset.PAPER)[0]
    config = presets.paper(
        num_features=features.shape[1],
        context_length=recipe.seq_len,
        input_transform=InputTransform.STANDARDISE,
        dropout=tuning.dropout,
    )
    is_over = False

    def after_epoch(_epoch: loop.Epoch, state: loop.State) -> None:
        nonlocal is_over
        model = PatchTST(config)
        model.load_state_dict(state["model"])
        is_over = watch.is_over(lambda: logits_at(model, features, watch.parts.holdout.positions))

    watch.start()
    with suppress(StoppedError):
        loop.fit(
            FitAttempt(config=config, seed=recipe.seed, learning_rate=tuning.learning_rate),
            training_set,
            recipe,
            device=device,
            saved=None,
            after_epoch=after_epoch,
            stopping=lambda: is_over,
        )
    return watch.facts()


def learn_hugging_face(config: PatchTSTConfig, rate: float) -> Callable[..., dict[str, Any]]:
    """A plain loop: standardised windows, DataLoader, Adam at one rate, batches of 64."""

    def learn(folder: Path, *, threads: int, limit: float) -> dict[str, Any]:
        torch.manual_seed(1)
        torch.set_num_threads(threads)
        watch = Watch(folder, limit=limit)
        features = watch.snapshot.features
        seen = features[watch.snapshot.decided_at <= watch.parts.train.decided_at.max()]
        scaled = ((features - seen.mean(0)) / seen.std(0)).astype(np.float32)

        def windows_of(part: Samples) -> Tensor:
            return torch.from_numpy(windows(scaled, part.positions, config.context_length))

        model = hugging_face(config)
        optimiser = torch.optim.Adam(model.parameters(), lr=rate)
        holdout = windows_of(watch.parts.holdout)
        watch.start()
        data = torch.utils.data.TensorDataset(
            windows_of(watch.parts.train), torch.from_numpy(watch.parts.train.labels).float()
        )
        loader = torch.utils.data.DataLoader(data, batch_size=64, shuffle=True)

        def answers() -> np.ndarray:
            model.eval()
            with torch.no_grad():
                return torch.cat([model(part) for part in holdout.split(512)]).numpy()

        while True:
            model.train()
            for windows_BTF, labels in loader:
                optimiser.zero_grad()
                loss = functional.binary_cross_entropy_with_logits(model(windows_BTF), labels)
                loss.backward()
                optimiser.step()
                loss.item()
            if watch.is_over(answers):
                return watch.facts()

    return learn


_SMALL = dataclasses.replace(OURS, input_transform=InputTransform.STANDARDISE)
_PAPERS = dataclasses.replace(PAPER, num_features=4, context_length=64, input_transform=InputTransform.STANDARDISE)
LEARNERS: dict[str, Callable[..., dict[str, Any]]] = {
    "ours": learn_ours,
    "HF, the paper's size, Adam 1e-4": learn_hugging_face(_PAPERS, 1e-4),
    "HF, the paper's size, Adam 1e-3": learn_hugging_face(_PAPERS, 1e-3),
    "HF, our size, Adam 1e-3": learn_hugging_face(dataclasses.replace(_SMALL, dropout=0.2), 1e-3),
}


# ---------------------------------------------------------------- predictions


def compare_answers(*, threads: int) -> None:
    """One process: the same weights in each runtime, batches of 1 and 256, alternating."""
    torch.set_num_threads(threads)
    print(f"\n### inference, {threads} threads\n")
    print("| network | runtime | batch 1, ms | ratio | batch 256, samples/s | ratio |")
    print("|---|---|---|---|---|---|", flush=True)
    for name, config in (("engine", ENGINE), ("paper", PAPER), ("paper as trained by default", OURS)):
        runtimes = runtimes_of(config, threads)
        figures: dict[int, dict[str, float]] = {}
        for batch in (1, 256):
            raw = torch.randn(batch, config.context_length, config.num_features)
            rounds = [{runtime: answer_seconds(ask, raw) for runtime, ask in runtimes.items()} for _ in range(7)]
            figures[batch] = {runtime: median(each[runtime] for each in rounds) for runtime in runtimes}
        first = next(iter(runtimes))
        for runtime in runtimes:
            one, many = figures[1][runtime], figures[256][runtime]
            print(
                f"| {name} | {runtime} | {one * 1e3:.2f} | {figures[1][first] / one:.2f} | {256 / many:,.0f} "
                f"| {figures[256][first] / many:.2f} |",
                flush=True,
            )


def runtimes_of(config: PatchTSTConfig, threads: int) -> dict[str, Callable[[Tensor], Any]]:
    """Baseline first."""
    ours = PatchTST(config).eval()
    baseline = EngineNetwork(config) if config.mixes_channels else hugging_face(config)
    baseline.eval()
    traced = torch.jit.trace(ours, torch.randn(2, config.context_length, config.num_features), check_trace=False)
    found: dict[str, Callable[[Tensor], Any]] = {
        "torch's TransformerEncoder" if config.mixes_channels else "HF": baseline,
        "ours": lambda raw: patchtst.logits(ours, raw.numpy()),
        "ours, torch.jit.trace": traced,
    }
    try:
        import onnxruntime
    except ImportError:
        return found
    with tempfile.TemporaryDirectory(prefix="training") as folder:
        path = str(Path(folder) / "model.onnx")
        torch.onnx.export(
            ours,
            (torch.randn(2, config.context_length, config.num_features),),
            path,
            input_names=["raw"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return found | {"ours, onnxruntime": lambda raw: session.run(None, {"raw": raw.numpy()})}


@torch.no_grad()
def answer_seconds(ask: Callable[[Tensor], Any], raw: Tensor) -> float:
    """The median duration of the predictions that fit into a tenth of a second."""
    ask(raw)
    seconds: list[float] = []
    until = time.perf_counter() + 0.1
    while not seconds or time.perf_counter() < until:
        started_at = time.perf_counter()
        ask(raw)
        seconds.append(time.perf_counter() - started_at)
    return median(seconds)


if __name__ == "__main__":
    main()
