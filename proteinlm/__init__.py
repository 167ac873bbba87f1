"""ProteinLM on Ray: pretrain, sweep and finetune protein language models, and end in one results table."""

__version__ = "0.1.0"
