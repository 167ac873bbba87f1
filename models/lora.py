"""Low-rank adapters on an encoder's linear layers (LoRA, Hu et al. 2021). The only file that imports peft."""

from collections.abc import Sequence

from proteinlm.models.encoder import ProteinEncoder


def add_lora(encoder: ProteinEncoder, *, rank: int, alpha: int, dropout: float, layers: Sequence[str]) -> None:
    """Put an adapter of `rank` on each linear layer of the encoder's layers that `layers` names, in place.

    Afterwards each such layer computes with W + (alpha / rank) B A in place of W. B is 0 at first, and A and B are the
    only parameters of the encoder that are trained. `layers` are names in models/encoder.py: "qkv", "output"
    (attention's and the MLP's), "expand".
    Raises ImportError that says what to install where peft is missing, ValueError for a name that no layer has.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise ImportError("mode lora needs peft: pip install proteinlm[lora]") from None

    settings = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(layers), bias="none")
    inject_adapter_in_model(settings, encoder)
