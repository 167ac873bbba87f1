"""The same data, the same seed, 300 steps: our model follows the loss curve of transformers' EsmForMaskedLM.

Ours is trained by the plain engine on packed micro batches. The reference starts from the same weights and is trained
by a loop written here, on padded rectangles of the same masked proteins.
"""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from proteinlm.models.alphabet import get_alphabet
from proteinlm.models.config import ModelConfig
from proteinlm.models.encoder import ProteinEncoder
from proteinlm.models.huggingface import esm_config, to_esm_state
from proteinlm.models.masking import DEFAULT_MASKING, mask_tokens
from proteinlm.models.packed import NOT_SCORED, pack
from proteinlm.platform.settings.sections import OptimizerSection, TrainingSection
from proteinlm.platform.training.optim import learning_rate
from proteinlm.platform.training.run_job import make_engine
from proteinlm.tasks.catalog import build_task
from proteinlm.tasks.task import Batch, TaskModel, known_labels
from tests.made.batches import padded
from tests.made.small_corpus import sequences

STEPS, PROTEINS = 300, 12
MODEL = ModelConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
OPTIMIZER = OptimizerSection(learning_rate=2e-3, warmup_steps=30, decay="linear")
ALPHABET = get_alphabet("esm")


def batch(step: int) -> tuple[Batch, Tensor, Tensor]:
    """A micro batch, and the same proteins as rectangles: tokens [B, L] padded, labels [B, L]."""
    tokens, lengths = ALPHABET.encode(sequences(PROTEINS, seed=step))
    rows = np.arange(PROTEINS)
    masked, labels = mask_tokens(tokens, lengths, rows, DEFAULT_MASKING, alphabet=ALPHABET, seed=step, epoch=0)
    targets = torch.from_numpy(labels.astype(np.int64))
    packed = Batch(
        pack(masked, lengths, get_alphabet("esm")),
        targets,
        tuple(rows.tolist()),
        num_scored=known_labels(labels, lengths),
    )
    rectangle = padded(torch.from_numpy(masked.astype(np.int64)), lengths, ALPHABET.pad_id)
    return packed, rectangle, padded(targets, lengths, NOT_SCORED)


def our_curve(model: TaskModel) -> list[float]:
    section = TrainingSection(steps=STEPS, engine="plain", precision="fp32")
    engine = make_engine(model, section, OPTIMIZER, device=torch.device("cpu"), micro_batches=1)
    rates = [learning_rate(OPTIMIZER, step, STEPS) for step in range(STEPS)]
    return [engine.train_step([batch(step)[0]], rate, seed=step).read().loss for step, rate in enumerate(rates)]


def reference_curve(model: torch.nn.Module) -> list[float]:
    """AdamW with the usual exemptions from decay, the clip and the schedule, by hand."""
    weights = [weight for name, weight in model.named_parameters() if "contact_head" not in name]
    groups = [
        {"params": [weight for weight in weights if weight.dim() > 1], "weight_decay": OPTIMIZER.weight_decay},
        {"params": [weight for weight in weights if weight.dim() == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=OPTIMIZER.betas, eps=OPTIMIZER.epsilon)
    curve = []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(OPTIMIZER, step, STEPS)
        _, tokens, targets = batch(step)
        logits = model(input_ids=tokens, attention_mask=(tokens != ALPHABET.pad_id).long()).logits
        loss = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=NOT_SCORED)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, OPTIMIZER.gradient_clip)
        optimizer.step()
        curve.append(float(loss.detach()))
    return curve


def test_three_hundred_steps_follow_the_ecosystem_s_own_model() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    ours = TaskModel(build_task("masked_language_modeling"), ProteinEncoder(MODEL))
    reference = transformers.EsmForMaskedLM(esm_config(MODEL))
    reference.load_state_dict(to_esm_state(ours.encoder, ours.head), strict=False)  # type: ignore[arg-type]
    reference.train()
    found, expected = our_curve(ours), reference_curve(reference)
    assert np.abs(np.array(found) - expected).max() < 1e-3
    assert np.mean(found[-20:]) < 0.5 * found[0], "there is something to follow: the motif is learned"
