"""One line of results: every column with its unit and formula.

To add a column: a line here, the code that fills it (radar/scoring/evaluation.py, or a metric), and a line in COLUMNS
of ablations/reporting/columns.py; of what is read first, also in MAIN of ablations/reporting/tables.py.
Legend: N cells, K steps, S slots.
"""

from collections.abc import Mapping
from typing import Annotated, Any, TypedDict, get_type_hints

Row = Mapping[str, Any]  # a ResultRow by column names, as it is read from a file of any version

Steps = list[list[int]] | None


class ResultRow(TypedDict, total=False):
    """What is known of one arm with one seed; a column that could not be had is absent or None."""

    # What was compared
    arm: Annotated[str, "name of the arm"]
    trial: Annotated[str, "hash of all that decides the result"]
    tried: Annotated[dict[str, Any], "factors, or what a search chose"]
    order: Annotated[str, "decoding order that is sampled in"]
    variant: Annotated[str, "attention variant"]
    seed: Annotated[int, "seed of weights, batches and corruption"]
    steps: Annotated[int, "forward passes per image, K"]
    group_sizes: Annotated[list[int] | None, "cells decoded in each step; 3x8 stands for three steps of 8 cells"]
    largest_group: Annotated[int, "cells of the largest step"]
    order_hash: Annotated[str, "hash of the step vector that was trained"]
    sampled_order_hash: Annotated[str, "hash of the step vector that is sampled"]
    order_per_image: Annotated[bool, "whether each sample has an order of its own"]
    step_map: Annotated[Steps, "step of each cell"]
    guidance: Annotated[float, "scale s in u + s (c - u)"]
    guidance_schedule: Annotated[str, "how the scale runs over the passes"]
    temperature: Annotated[float, "logits are divided by it"]
    top_k: Annotated[int, "tokens that are kept; 0: all"]
    top_p: Annotated[float, "mass of the tokens that are kept"]
    correction: Annotated[float, "known tokens less likely than this are drawn again; 0: off"]
    labels: Annotated[str, "classes of the samples: balanced or as_data"]
    label_gap: Annotated[float, "largest difference between a class's shares in samples and data, in points"]
    # Independence gap
    gap: Annotated[float | None, "independence gap in nats, in the field exp(-r/4)"]
    gap_per_step: Annotated[float | None, "the gap divided by K"]
    gaps: Annotated[list[float] | None, "gap of each step, in nats"]
    gap_data: Annotated[float | None, "independence gap in nats per channel, in the field of the training tokens"]
    # Quality
    nll: Annotated[float | None, "negative log-likelihood of held-out images, in nats per image"]
    fid: Annotated[float, "Fréchet distance of the samples to the reference images; lower is better"]
    fid_matched: Annotated[float, "the same of as many samples as there are held-out images"]
    fid_floor: Annotated[float, "the same of held-out images: what perfect samples would read"]
    floor_images: Annotated[int, "images that fid_matched and fid_floor are of"]
    sfid: Annotated[float, "Fréchet distance of spatial features to those of the reference images; lower is better"]
    inception_score: Annotated[float, "how sure the feature network is of single samples and how varied they are"]
    kid: Annotated[float, "kernel distance to the reference images; lower is better"]
    precision: Annotated[float, "share of samples among the reference images (k = 3)"]
    recall: Annotated[float, "share of reference images among the samples (k = 3)"]
    accuracy: Annotated[float, "share of samples that the feature network's classifier gives their own label"]
    validity: Annotated[float, "share of samples that are well-formed members of their class"]
    duplicates: Annotated[float, "share of samples that equal another sample"]
    memorised: Annotated[float, "share of samples that equal a training image"]
    rfid: Annotated[float, "Fréchet distance of held-out images to themselves through the tokenizer"]
    fid_restored: Annotated[
        float, "fid_floor of the held-out images through the tokenizer: what perfect tokens would read"
    ]
    rfid_reference: Annotated[str, "images of rfid"]
    probe: Annotated[float, "accuracy of a linear classifier of the generator's features, on held-out images"]
    edits: Annotated[dict[str, dict[str, float]], "scores of standard edits of held-out images (docs/editing.md)"]
    # Cost
    params: Annotated[int, "trainable parameters"]
    slots: Annotated[int, "slots of all steps together, S"]
    sampled_slots: Annotated[int, "slots that sampling one image encodes"]
    sample_gflop: Annotated[float, "operations of sampling one image, in 10^9"]
    train_tflops: Annotated[float, "operations of the training, in 10^12"]
    images_seen: Annotated[int, "training images, repeated ones counted again"]
    kept_step: Annotated[int, "optimizer step whose weights are scored; with train.patience the best validated"]
    train_seconds: Annotated[float, "seconds of training and validation"]
    evaluate_seconds: Annotated[float, "seconds of scoring"]
    images_per_s: Annotated[float, "images sampled and decoded per second: batch / median round"]
    images_per_s_min: Annotated[float, "the same of the slowest round"]
    images_per_s_max: Annotated[float, "the same of the fastest round"]
    speedup: Annotated[float, "median seconds of the baseline / those of this arm, in the same rounds"]
    speedup_min: Annotated[float, "least ratio of a round"]
    speedup_max: Annotated[float, "largest ratio of a round"]
    timed_at: Annotated[str, "commit that was timed"]
    curve: Annotated[list[tuple[int, float]], "held-out NLL by optimizer step"]
    fid_curve: Annotated[list[tuple[int, float]], "fid of train.val_samples samples by optimizer step"]
    # Provenance
    fid_feature: Annotated[str, "feature network and hash of its weights"]
    further_features: Annotated[list[str], "further feature networks, of the columns that name them: fid[label]"]
    feature_accuracy: Annotated[float | None, "share of held-out images that the feature network's classifier knows"]
    classes: Annotated[int, "number of classes"]
    reference: Annotated[str, "reference images"]
    held_out: Annotated[int, "held-out images"]
    samples: Annotated[int, "images that are scored"]
    sample_seed: Annotated[int, "seed of the samples"]
    options: Annotated[dict[str, Any], "all options that can change a result"]
    config: Annotated[str, "hash of the options"]
    commit: Annotated[str, "commit that scored"]
    trained_at: Annotated[str, "commit that trained"]
    hardware: Annotated[str, "device, cores, threads"]
    dtype: Annotated[str, "type of the weights"]
    train_precision: Annotated[str, "precision of training"]
    sample_precision: Annotated[str, "precision of sampling"]
    timing_batch: Annotated[int, "batch of the timing"]
    python: Annotated[str, "version"]
    torch: Annotated[str, "version"]
    lightning: Annotated[str, "version"]
    torchmetrics: Annotated[str, "version"]
    numpy: Annotated[str, "version"]


EXPLAINED: dict[str, str] = {
    name: hint.__metadata__[0] for name, hint in get_type_hints(ResultRow, include_extras=True).items()
}
