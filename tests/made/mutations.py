"""Mutants: small faults that may be put into the source, each with the tests that must then fail.

`python -m tests.mutants` puts them in, one after the other. Numbers 1 to 42 are those of a first round, of which seven
survived; those from 43 on came later.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One change of the source that must not pass the tests."""

    number: int
    what: str
    """What is wrong then."""
    file: str
    """Path from the repository's root."""
    old: str
    """Text that stands in the file exactly once."""
    new: str
    tests: tuple[str, ...]
    """What pytest is given: the fewest tests that notice."""


def _mutant(number: int, what: str, file: str, old: str, new: str, *tests: str) -> Mutant:
    return Mutant(number, what, file, old, new, tests)


MASKING = "tests/models/test_masking.py"
ORDER = "tests/platform/batches/test_order.py"
ENGINE = "tests/platform/training/test_engine.py"
RUN_JOB = "tests/platform/training/test_run_job.py"
CHECKPOINT = "tests/platform/training/test_checkpoint.py"
LOOP = "tests/platform/training/test_loop.py"
OPTIM = "tests/platform/training/test_optim.py"
ATTENTION = "tests/models/test_attention.py"
METRICS = "tests/tasks/test_metrics.py"
PRECISION = "tests/tasks/test_contact_prediction_precision.py"
PLAN = "tests/sweeps/planning/test_plan.py"
BUILD = "tests/platform/corpus/test_build.py"
UNPICKLE = "tests/platform/data/test_unpickle.py"
MANIFEST = "tests/platform/data/test_manifest.py"
BASELINES = "tests/tasks/test_baselines_protein.py"
TABLES = "tests/platform/results/test_table_text.py"
TOKEN_DROPOUT = "tests/models/test_huggingface_parity.py::test_the_scale_of_token_dropout_by_hand"
LOCK = "tests/platform/storage/test_lock.py"
SEQUENCES = "tests/models/test_sequences.py"
SPLITS = "tests/platform/labelled/test_files_split.py"
SAME_RUN = "tests/platform/training/test_driver_same_run.py"

MUTANTS = (
    _mutant(
        1,
        "masked share 3 % too small",
        "models/masking.py",
        "scored_below = round(masking.mask_fraction * 2**32)",
        "scored_below = round(0.97 * masking.mask_fraction * 2**32)",
        f"{MASKING}::test_fractions_are_those_asked_for",
    ),
    _mutant(
        2,
        "random replacement never draws the last amino acid",
        "models/masking.py",
        "/ random_fraction * len(amino_acids)).astype",
        "/ random_fraction * (len(amino_acids) - 1)).astype",
        f"{MASKING}::test_fractions_are_those_asked_for",
        f"{MASKING}::test_masks_stay_what_they_were",
    ),
    _mutant(
        3,
        "floor: random / 25",
        "models/masking.py",
        "drawn = random_fraction / len(STANDARD_AMINO_ACIDS) if",
        "drawn = random_fraction / 25 if",
        MASKING,
        "-k",
        "floor",
    ),
    _mutant(
        4,
        "loss over a micro batch's own labels, plain engine",
        "platform/training/engine.py",
        "self._scaler.scale(loss / scored.clamp(min=1).to(loss.dtype))",
        "self._scaler.scale(loss / max(batch.num_scored, 1))",
        f"{ENGINE}::test_the_plain_engines_gradient_knows_no_micro_batches_and_is_clipped",
    ),
    _mutant(
        5,
        "loss not scaled by workers, DeepSpeed",
        "platform/training/deepspeed_engine.py",
        "scale = world_size() * len(batches) / scored.clamp(min=1)",
        "scale = len(batches) / scored.clamp(min=1)",
        f"{ENGINE}::test_what_deepspeed_takes_means_over_is_multiplied_back",
    ),
    _mutant(
        6,
        "a resume skips one batch",
        "platform/training/run_job.py",
        "first_step=cursor.step,",
        "first_step=cursor.step + 1,",
        f"{RUN_JOB}::test_a_resumed_run_counts_on_from_its_checkpoint",
    ),
    _mutant(
        7,
        "same order of shards in each epoch",
        "platform/batches/order.py",
        "_permutation(len(self.split.shards), self.seed, epoch)",
        "_permutation(len(self.split.shards), self.seed, 0)",
        f"{ORDER}::test_epochs_are_permuted_differently_and_by_the_seed",
    ),
    _mutant(
        8,
        "lanes rotated by one",
        "platform/batches/order.py",
        "self.window(round_ * self.lanes + lane)",
        "self.window(round_ * self.lanes + (lane + 1) % self.lanes)",
        f"{ORDER}::test_lanes_take_the_windows_in_turn_in_an_order_that_stays_what_it_is",
    ),
    _mutant(
        9,
        "no key mask where lengths differ by one",
        "models/packed.py",
        "if bool((sizes == length).all()):",
        "if bool((sizes >= length - 1).all()):",
        "tests/models/test_packed.py",
    ),
    _mutant(
        10,
        "sign of rotary positions",
        "models/attention.py",
        "addcmul_(second, sin, value=-1)",
        "addcmul_(second, sin, value=1)",
        f"{ATTENTION}::test_rotated_products_depend_on_distance_alone",
    ),
    _mutant(
        11,
        "gradient of rotary positions not rotated back",
        "models/attention.py",
        "back = (angles[0], -angles[1]) if angles else None",
        "back = (angles[0], angles[1]) if angles else None",
        f"{ATTENTION}::test_heads_and_back_have_exact_gradients",
    ),
    _mutant(
        12,
        "heads and queries, keys, values interleaved",
        "models/attention.py",
        "rows.view(group.num_proteins, group.length, parts, num_heads, -1).permute(2, 0, 3, 1, 4)",
        "rows.view(group.num_proteins, group.length, num_heads, parts, -1).permute(3, 0, 2, 1, 4)",
        f"{ATTENTION}::test_attention_and_its_gradient_are_the_plain_formulas",
    ),
    _mutant(
        13,
        "mean over proteins counts those with nothing scored",
        "tasks/metrics.py",
        "np.where(counts, under, 1.0), 0.0), counts.astype(np.float64)",
        "np.where(counts, under, 1.0), 0.0), np.ones(len(counts))",
        METRICS,
    ),
    _mutant(
        14,
        "bootstrap never draws the last protein",
        "tasks/metrics.py",
        "generator.integers(0, num_proteins, (",
        "generator.integers(0, num_proteins - 1, (",
        METRICS,
    ),
    _mutant(15, "interval of 90 %", "tasks/metrics.py", "INTERVAL = 0.95", "INTERVAL = 0.90", METRICS),
    _mutant(
        16,
        "contacts from separation 7 on",
        "tasks/contact_prediction.py",
        "MIN_SEPARATION = 6",
        "MIN_SEPARATION = 7",
        PRECISION,
    ),
    _mutant(
        17,
        "L/5 rounded up",
        "tasks/contact_prediction.py",
        "top = in_range[: max(1, length // divisor)]",
        "top = in_range[: max(1, -(-length // divisor))]",
        PRECISION,
    ),
    _mutant(
        18,
        "Spearman's rho: smallest rank for ties",
        "tasks/metrics.py",
        "(np.cumsum(occurrences) - (occurrences - 1) / 2)",
        "(np.cumsum(occurrences) - (occurrences - 1))",
        "tests/tasks/test_metrics_spearman.py::test_equals_scipy_with_and_without_ties",
    ),
    _mutant(
        19,
        "warm-up begins at 0",
        "platform/training/optim.py",
        "section.learning_rate * (step + 1) / section.warmup_steps",
        "section.learning_rate * step / section.warmup_steps",
        f"{OPTIM}::test_warm_up_then_linear_decay",
    ),
    _mutant(
        20,
        "schedule one step ahead",
        "platform/training/loop.py",
        "learning_rate(schedule.optimizer, step - 1, schedule.total_steps)",
        "learning_rate(schedule.optimizer, step, schedule.total_steps)",
        f"{LOOP}::test_steps_are_counted_from_the_checkpoint_and_cadences_kept",
    ),
    _mutant(
        21,
        "plain engine clips at ten times the norm",
        "platform/training/engine.py",
        "clip_grad_norm_(trainable, self._clip)",
        "clip_grad_norm_(trainable, 10 * self._clip)",
        f"{ENGINE}::test_the_plain_engines_gradient_knows_no_micro_batches_and_is_clipped",
    ),
    _mutant(
        22,
        "no clipping at ZeRO 1 to 3",
        "platform/training/deepspeed_engine.py",
        "((norm + 1e-6) / clip)",
        "((norm + 1e-6) / (10 * clip))",
        f"{ENGINE}::test_clipping_the_parts_of_a_gradient_is_clipping_the_whole",
    ),
    _mutant(
        23,
        "weight decay on vectors",
        "platform/training/optim.py",
        '{"params": vectors, "weight_decay": 0.0}',
        '{"params": vectors, "weight_decay": weight_decay}',
        f"{OPTIM}::test_biases_and_layer_norms_are_not_decayed",
    ),
    _mutant(
        24,
        "skipped steps forgotten on resume",
        "platform/training/run_job.py",
        "job.training, job.optimizer, cursor.skipped_steps)",
        "job.training, job.optimizer)",
        f"{RUN_JOB}::test_a_resumed_run_counts_on_from_its_checkpoint",
    ),
    _mutant(
        25,
        "identity without the corpus' content",
        "sweeps/planning/trial.py",
        "lambda corpus: read_manifest(corpus).content_hash,",
        "lambda corpus: str(corpus.resolve()),",
        f"{PLAN}::test_the_corpus_is_known_by_its_content",
    ),
    _mutant(
        26,
        "identity without the learning rate",
        "sweeps/planning/trial.py",
        "if value is not None and name != SEED}",
        'if value is not None and name not in (SEED, "optimizer.learning_rate")}',
        f"{PLAN}::test_every_setting_that_determines_the_result_is_in_the_name",
    ),
    _mutant(
        27,
        "halving rounds down",
        "sweeps/trials/halving.py",
        "count = math.ceil(share - 1e-9)",
        "count = math.floor(share + 1e-9)",
        "tests/sweeps/trials/test_halving.py",
    ),
    _mutant(
        28,
        "region of a power law with one degree of freedom too many",
        "sweeps/results/least_squares.py",
        "float(stdtrit(degrees, 0.975)) ** 2",
        "float(stdtrit(degrees + 1, 0.975)) ** 2",
        "tests/sweeps/results/test_scaling.py",
    ),
    _mutant(
        29,
        "of duplicates the one not held out stays",
        "platform/corpus/passes.py",
        "np.lexsort((place, ~is_held, lo, hi))",
        "np.lexsort((place, is_held, lo, hi))",
        f"{BUILD}::test_a_sequence_of_a_held_out_family_is_not_in_train_under_another",
    ),
    _mutant(
        30,
        "valid drawn by the half of the key that orders",
        "platform/corpus/passes.py",
        "is_valid = lo[kept] <",
        "is_valid = hi[kept] <",
        f"{BUILD}::test_valid_is_drawn_by_the_half_of_the_key_that_does_not_order",
    ),
    _mutant(
        31,
        "unpickler lets bytearray(n) through",
        "platform/data/unpickle.py",
        '    (_BUILTINS, "set", partial(_set, set)),\n',
        '    (_BUILTINS, "set", partial(_set, set)),\n'
        '    (_BUILTINS, "bytearray", lambda machine, given: bytearray(*given)),\n',
        f"{UNPICKLE}::test_everything_else_is_refused_by_name_and_not_run",
        "-k",
        "bytearray",
    ),
    _mutant(
        32,
        "unpickler lets records (V) through",
        "platform/data/unpickle.py",
        '_PLAIN_KINDS = "biufcSU"',
        '_PLAIN_KINDS = "biufcSUV"',
        f"{UNPICKLE}::test_everything_else_is_refused_by_name_and_not_run",
    ),
    _mutant(
        33,
        "files written in place, not renamed",
        "platform/storage/atomic.py",
        "    with staged_file(path) as staging:\n        staging.write_bytes",
        "    for staging in (path,):\n        staging.write_bytes",
        "tests/platform/storage/test_atomic.py",
    ),
    _mutant(
        34,
        "parameters of the head",
        "models/config.py",
        "head = hidden * hidden + 3 * hidden + vocab",
        "head = hidden * hidden + 2 * hidden + vocab",
        "tests/models/test_config.py",
        "-k",
        "closed_form",
    ),
    _mutant(
        35,
        "ridge's alpha chosen on train",
        "tasks/baselines_protein.py",
        "valid_features, valid_targets = one_hot_positions(valid, width), _targets(valid, target)",
        "valid_features, valid_targets = one_hot_positions(train, width), _targets(train, target)",
        f"{BASELINES}::test_the_ridge_is_scikit_learns_and_its_alpha_is_valids",
    ),
    _mutant(
        36,
        "k-mer neighbour: sum over a fold",
        "tasks/baselines_protein.py",
        "np.maximum.reduceat(cosines",
        "np.add.reduceat(cosines",
        f"{BASELINES}::test_the_nearest_fold_is_that_of_the_nearest_protein_by_scikit_learns_cosine",
    ),
    _mutant(
        37,
        "labels shifted by one residue",
        "tasks/secondary_structure.py",
        "tokens_labels[is_residue] = labels[source]",
        "tokens_labels[is_residue] = labels[np.maximum(source - 1, 0)]",
        "tests/tasks/test_secondary_structure.py::test_specials_masked_and_unknown_residues_are_not_scored",
    ),
    _mutant(
        38,
        "masks of validation not from the content",
        "platform/data/manifest.py",
        "return int(self.content_hash[:12], 16)",
        "return 0",
        f"{MANIFEST}::test_the_masks_of_validation_come_from_the_content",
    ),
    _mutant(
        39,
        "best step: the last of equals",
        "platform/training/selection.py",
        "known = [(self._sign * value, -step) for step, value in self._seen if value == value]\n"
        "        return -max(known)[1] if known else None",
        "known = [(self._sign * value, step) for step, value in self._seen if value == value]\n"
        "        return max(known)[1] if known else None",
        "tests/platform/training/test_selection.py::test_the_best_step_comes_back_and_the_first_of_equals_counts",
    ),
    _mutant(
        40,
        "token dropout not applied",
        "models/encoder.py",
        "if self.config.token_dropout:",
        "if False:",
        "tests/models/test_huggingface_parity.py::test_esm_computes_the_same",
        "-k",
        "plain and EsmModel",
    ),
    _mutant(
        41,
        "rows of other data share a measure",
        "platform/results/tables.py",
        "sample = (row.split, row.data_hash, row.split_rule,",
        'sample = (row.split, "", row.split_rule,',
        f"{TABLES}::test_what_is_measured_otherwise_is_never_ranked",
    ),
    _mutant(
        42,
        "dropout not drawn from the rows",
        "platform/training/engine.py",
        "torch.manual_seed((seed * 1_000_003 + (batch.rows[0] if batch.rows else 0)) % 2**63)",
        "torch.manual_seed(seed * 1_000_003 % 2**63)",
        f"{ENGINE}::test_dropout_is_drawn_from_the_step_and_the_rows_of_each_micro_batch",
    ),
    _mutant(
        43,
        "checksum of a shard not compared",
        "platform/data/manifest.py",
        "if shard.checksum is not None and zlib.crc32(content) != shard.checksum:",
        "if shard.checksum is not None and not content:",
        f"{MANIFEST}::test_every_flipped_bit_of_a_shard_is_noticed_or_changes_nothing",
        f"{MANIFEST}::test_another_shard_in_its_place_is_named",
    ),
    _mutant(
        44,
        "rows of a shard without a checksum not compared",
        "platform/data/manifest.py",
        "is_listed = shard.checksum is not None or _is_as_listed(",
        "is_listed = bool(shard.digest) or _is_as_listed(",
        f"{MANIFEST}::test_another_shard_in_its_place_is_named",
    ),
    _mutant(
        45,
        "more rows in a shard than the manifest says",
        "platform/data/manifest.py",
        "if table.num_rows != shard.rows:",
        "if table.num_rows < shard.rows:",
        f"{MANIFEST}::test_another_shard_in_its_place_is_named",
    ),
    _mutant(
        46,
        "digest of a data set without its labels",
        "platform/data/manifest.py",
        "for name in sorted(set(table.column_names) - set(ABOUT_A_PROTEIN)):",
        "for name in ():",
        f"{MANIFEST}::test_every_value_of_a_label_changes_the_digest",
    ),
    _mutant(
        47,
        "of a checkpoint's files the size alone is compared",
        "platform/training/checkpoint.py",
        "crc32(there[name]) if with_sums else about[1]",
        "about[1]",
        f"{CHECKPOINT}::test_every_flipped_bit_is_noticed",
    ),
    _mutant(
        48,
        "of a checkpoint the first worker's part alone is looked at",
        "platform/training/checkpoint.py",
        "for rank in range(cursor.world_size):",
        "for rank in range(1):",
        f"{CHECKPOINT}::test_the_part_of_every_worker_is_looked_at",
    ),
    _mutant(
        49,
        "a damaged checkpoint ends the search for a whole one",
        "platform/training/checkpoint.py",
        "            faults.append(str(error))\n        else:",
        "            faults.append(str(error))\n            break\n        else:",
        f"{CHECKPOINT}::test_a_run_goes_on_from_the_newest_whole_checkpoint",
    ),
    _mutant(
        50,
        "a lock of a process whose number is used again is kept",
        "platform/storage/lock.py",
        "return _start_of(holder.process) == holder.started",
        "return True",
        f"{LOCK}::test_a_process_number_that_is_used_again_is_no_holder",
    ),
    _mutant(
        51,
        "a lock of another host is taken over at once",
        "platform/storage/lock.py",
        "file.stat().st_mtime > LEFT_OVER_AFTER",
        "file.stat().st_mtime > -LEFT_OVER_AFTER",
        f"{LOCK}::test_a_lock_of_another_host_is_taken_over_when_it_was_not_touched_for_long",
    ),
    _mutant(
        52,
        "token dropout by the share of mask tokens of the whole micro batch",
        "models/encoder.py",
        "share = masks_before.diff() / borders.diff()",
        "share = (packed.is_mask.sum() / borders[-1]).expand(len(borders) - 1)",
        TOKEN_DROPOUT,
    ),
    _mutant(
        53,
        "token dropout: mask tokens not zeroed",
        "models/encoder.py",
        "return scale[packed.protein_index].masked_fill(packed.is_mask, 0.0)[:, None]",
        "return scale[packed.protein_index][:, None]",
        TOKEN_DROPOUT,
    ),
    _mutant(
        54,
        "a file of which most records are no proteins passes",
        "models/sequences.py",
        "if 2 * count > self.records:",
        "if count > self.records:",
        SEQUENCES,
        "-k",
        "not real",
    ),
    _mutant(
        55,
        "runs of two letters are taken for nucleotides",
        "models/sequences.py",
        "for count in of_base) >= 3",
        "for count in of_base) >= 2",
        SEQUENCES,
        "-k",
        "not real",
    ),
    _mutant(
        56,
        "rows of an unknown set are passed over",
        "platform/labelled/files.py",
        "        if name not in names:\n",
        "        if name not in names:\n            return ()\n        if name is None:\n",
        f"{SPLITS}::test_an_unknown_set_is_a_fault_with_line_value_and_what_is_accepted",
    ),
    _mutant(
        57,
        "rows of other sets are left out without a count",
        "platform/labelled/files.py",
        "self.left_out[name] += names[name] not in self.splits",
        "self.left_out[name] += 0",
        f"{SPLITS}::test_a_file_of_one_split_leaves_out_the_rows_of_others_and_says_so",
    ),
    _mutant(
        58,
        "an epsilon that trains nothing is accepted",
        "platform/settings/sections.py",
        "epsilon: float = Field(1e-8, gt=0, le=1)",
        "epsilon: float = Field(1e-8, gt=0)",
        "tests/platform/settings/test_loading_as_typed.py::test_a_value_out_of_range_is_refused_by_its_name"
        "[optimizer.epsilon]",
    ),
    _mutant(
        59,
        "a run goes on with other inputs",
        "platform/training/driver.py",
        "if inputs[name] != then[name]:",
        "if not inputs[name]:",
        f"{SAME_RUN}::test_other_content_at_the_same_path_is_named",
    ),
    _mutant(
        60,
        "a run of an earlier version goes on with another corpus",
        "platform/training/driver.py",
        'described.inputs or {"corpus": described.data_hash}',
        "described.inputs",
        f"{SAME_RUN}::test_a_run_of_an_earlier_version_is_known_by_its_corpus",
    ),
    _mutant(
        61,
        "a score over a prefix of valid is ranked with one over all of it",
        "platform/results/tables.py",
        "row.mask_seed, row.num_proteins)",
        "row.mask_seed, 0)",
        f"{TABLES}::test_what_is_measured_otherwise_is_never_ranked",
    ),
    _mutant(
        62,
        "a model that saw a part of the proteins is measured as one that saw all of them",
        "platform/results/measure.py",
        "definition=metric.definition + _cut(who, manifest.split(split)),",
        "definition=metric.definition,",
        "tests/platform/results/test_measure.py",
    ),
    _mutant(
        63,
        "all steps share their dropout",
        "platform/training/loop.py",
        "seed=schedule.seed * 1_000_000_007 + step)",
        "seed=schedule.seed * 1_000_000_007)",
        f"{LOOP}::test_each_step_has_a_seed_of_its_own_that_a_resumed_run_has_too",
    ),
    _mutant(
        64,
        "masks of validation by the run's seed",
        "platform/training/evaluation.py",
        "job.reading(whole, seed=whole.mask_seed,",
        "job.reading(whole, seed=job.seed,",
        "tests/platform/training/test_evaluation.py",
    ),
)
